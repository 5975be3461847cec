#!/bin/bash
# deploy/packages.sh run|test|vm|bench|deploy: installs the distribution packages that are missing, and only those.
#
# Debian and Ubuntu. On other systems it names what is missing and stops. No service is started by it.
set -euo pipefail

# What proves that a thing is there (a command, a file, a library), and the package that brings it.
RUN="clang=clang llvm-strip=llvm
/usr/include/bpf/bpf_helpers.h=libbpf-dev /usr/include/linux/bpf.h=linux-libc-dev libbpf.so.1=libbpf1"
TEST="ip=iproute2 nft=nftables iptables=iptables ethtool=ethtool ping=iputils-ping curl=curl openssl=openssl dig=bind9-dnsutils dnsmasq=dnsmasq-base unbound=unbound
musl-gcc=musl-tools /usr/include/ares.h=libc-ares-dev
nginx=nginx-light chromium=chromium prometheus=prometheus promtool=prometheus unshare=util-linux
systemd-analyze=systemd strace=strace bpftool=bpftool sysctl=procps cc=gcc /usr/include/stdio.h=libc6-dev
/usr/lib/python3/dist-packages/bcc/__init__.py=python3-bpfcc
dockerd=docker.io containerd=containerd runc=runc podman=podman conmon=conmon"
VM="qemu-system-x86_64=qemu-system-x86"
DEPLOY="debootstrap=debootstrap dpkg-deb=dpkg groff=groff-base docker-compose=docker-compose Xvfb=xvfb dbus-daemon=dbus-daemon dunst=dunst desktop-file-validate=desktop-file-utils chromium=chromium chromedriver=chromium-driver /usr/share/fonts/truetype/dejavu=fonts-dejavu-core"

fail() { # what failed, how to mend
	printf '%s\n  %s\n' "packages: $1" "$2" >&2
	exit 3
}

present() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*.so.*) /sbin/ldconfig -p | grep -qF "$1 " ;;
	*) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
	esac
}

missing() {
	local pair
	for pair in "$@"; do present "${pair%%=*}" || echo "${pair#*=}"; done | sort -u
}

# A Python >= 3.11 that can make virtual environments: the Makefile asks for it, too.
python() {
	local candidate
	for candidate in ${PYTHON:-} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
		"$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
			command -v "$candidate" && return
	done
	return 1
}

# python3-venv belongs to the default Python; where that one is too old, 3.11 may stand beside it.
python_packages() {
	if python >/dev/null; then return; fi
	if /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
		echo python3-venv
	else
		echo python3.11 python3.11-venv
	fi
}

# Packages with daemons start them when they are installed. Tests start their own instead:
# https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
forbid_services() {
	[ ! -e /usr/sbin/policy-rc.d ] || return 0
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
}

# Nor shall they start at the next boot; a service that was there before is left alone.
disable_services() {
	local package
	command -v systemctl >/dev/null || return 0
	for package in "$@"; do
		case $package in
		nginx-light) systemctl disable --quiet nginx.service 2>/dev/null || true ;;
		prometheus) systemctl disable --quiet prometheus.service 2>/dev/null || true ;;
		docker.io) systemctl disable --quiet docker.service docker.socket 2>/dev/null || true ;;
		containerd) systemctl disable --quiet containerd.service 2>/dev/null || true ;;
		podman) systemctl disable --quiet podman.socket podman.service podman-restart.service 2>/dev/null || true ;;
		unbound) systemctl disable --quiet unbound.service 2>/dev/null || true ;;
		nftables) systemctl disable --quiet nftables.service 2>/dev/null || true ;;
		esac
	done
}

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1
}

install() {
	[ "$(id -u)" = 0 ] || fail "not root, and these packages are missing: $*" "type: sudo apt-get install $*"
	command -v apt-get >/dev/null || fail "no apt-get here, and these are missing: $*" \
		"install what your distribution calls them, then type the same again"
	echo "tattle: installing $* (a minute or two, once)"
	log=$(mktemp /tmp/tattle-packages.XXXXXX)
	forbid_services
	if ! { apt update && apt install --no-install-recommends "$@"; }; then
		tail -n 5 "$log" >&2
		fail "apt-get could not install $*" "the whole output is in $log"
	fi
	disable_services "$@"
	rm -f "$log"
}

case ${1:-} in
run) wanted=$RUN ;;
test) wanted="$RUN $TEST" ;;
vm) wanted="$RUN $VM" ;;
bench) wanted="$RUN $TEST" ;;
deploy) wanted="$RUN $TEST $DEPLOY" ;;
python)
	python || fail "no Python >= 3.11 with venv" "type: deploy/packages.sh run (as root)"
	exit
	;;
*) fail "what for?" "type: deploy/packages.sh run|test|vm|bench|deploy|python" ;;
esac
# shellcheck disable=SC2046,SC2086 # lists of words
set -- $(missing $wanted) $(python_packages)
[ $# = 0 ] || install "$@"
