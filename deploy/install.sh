#!/bin/sh
# deploy/install.sh [WHEEL|FOLDER]: tattle in one line, for those who have no package.   (root; Debian, Ubuntu)
# deploy/install.sh --uninstall [--keep]: takes all of it away again; --keep leaves configuration and state.
#
# What it does, all of it:
#   apt-get install libbpf1 python3-venv    only where they are missing, and notes what that brought
#   /opt/tattle                             a virtual environment with tattle in it
#   /usr/local/bin/tattle                   a link to its command
#   /usr/local/share/man, completions       of that command
#   /etc/systemd/system/tattle.service      the service; neither enabled nor started
#   /etc/systemd/system/tattle-restore.service   puts blocks in force again in the early boot; not enabled
#   /etc/tattle/tattle.toml                 the configuration, where there is none
# PREFIX, BINDIR, UNITDIR, ETCDIR and SHAREDIR in the environment move these.
set -eu

PREFIX=${PREFIX:-/opt/tattle}
BINDIR=${BINDIR:-/usr/local/bin}
UNITDIR=${UNITDIR:-/etc/systemd/system}
ETCDIR=${ETCDIR:-/etc/tattle}
SHAREDIR=${SHAREDIR:-/usr/local/share}
UNITS="tattle.service tattle-restore.service"
BROUGHT=$PREFIX/brought-by-apt
COMPLETIONS="bash-completion/completions/tattle zsh/site-functions/_tattle fish/vendor_completions.d/tattle.fish"

fail() { # what failed, how to mend
	printf '%s\n  %s\n' "install: $1" "$2" >&2
	exit 3
}

packages() { dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii  *//p' | sort; }

# A Python >= 3.11 that can make virtual environments.
find_python() {
	for python in ${PYTHON:-} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
		if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
			return 0
		fi
	done
	return 1
}

present() { /sbin/ldconfig -p | grep -qF 'libbpf.so.1 ' && find_python; }

need() {
	present && return
	command -v apt-get >/dev/null || fail "libbpf.so.1 or Python >= 3.11 with venv is missing" \
		"install what your distribution calls libbpf1 and python3-venv, then type the same again"
	before=$(packages)
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends libbpf1 python3-venv
	mkdir -p "$PREFIX"
	packages | while read -r package; do
		echo "$before" | grep -qxF "$package" || echo "$package"
	done >"$BROUGHT"
	present || fail "Python >= 3.11 with venv is missing" "a newer distribution, or PYTHON=/path/to/python3.11"
}

install_tattle() {
	need
	kept=$(cat "$BROUGHT" 2>/dev/null || true)
	"$python" -m venv --clear "$PREFIX"
	[ -z "$kept" ] || echo "$kept" >"$BROUGHT"
	"$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check "$1"
	data=$PREFIX/share/tattle
	mkdir -p "$BINDIR" "$UNITDIR" "$ETCDIR"
	ln -sfn "$PREFIX/bin/tattle" "$BINDIR/tattle"
	for unit in $UNITS; do sed "s,/opt/tattle,$PREFIX," "$data/$unit" >"$UNITDIR/$unit"; done
	[ -e "$ETCDIR/tattle.toml" ] || cp "$data/tattle.toml" "$ETCDIR/tattle.toml"
	"$PREFIX/bin/python" "$data/man.py" "$SHAREDIR/man" "$data/tattle.toml"
	for place in $COMPLETIONS; do
		mkdir -p "$SHAREDIR/${place%/*}"
		shell=${place%%[-/]*}
		"$PREFIX/bin/register-python-argcomplete" --shell "$shell" tattle >"$SHAREDIR/$place"
	done
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
	echo "tattle: installed. Type: sudo systemctl enable --now tattle tattle-restore"
}

# Only if that takes nothing that came later and needs them.
remove_packages() {
	[ -s "$BROUGHT" ] || return 0
	list=$(cat "$BROUGHT")
	# shellcheck disable=SC2086 # a list of words
	for package in $(apt-get -s purge $list | sed -n 's/^Purg \([^ ]*\).*/\1/p'); do
		echo "$list" | grep -qxF "$package" || {
			echo "tattle: others need some of what was installed for it, which stays: $(echo $list)"
			return 0
		}
	done
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive apt-get -qq purge $list
}

uninstall() {
	if [ -d /run/systemd/system ]; then systemctl disable --quiet --now $UNITS || true; fi
	[ "$1" = --keep ] || rm -rf /sys/fs/bpf/tattle /run/tattle /var/lib/tattle /var/log/tattle "$ETCDIR"
	[ "$1" = --keep ] || remove_packages
	rm -rf "$PREFIX" "$BINDIR/tattle"
	for unit in $UNITS; do rm -f "$UNITDIR/$unit"; done
	rm -f "$SHAREDIR"/man/man8/tattle.8 "$SHAREDIR"/man/man8/tattle-*.8 "$SHAREDIR"/man/man5/tattle.toml.5
	for place in $COMPLETIONS; do rm -f "$SHAREDIR/$place"; done
	for folder in man/man8 man/man5 bash-completion/completions bash-completion zsh/site-functions zsh \
		fish/vendor_completions.d fish; do
		rmdir "$SHAREDIR/$folder" 2>/dev/null || true # unless others have something there
	done
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
	echo "tattle: removed"
}

main() {
	[ "$(id -u)" = 0 ] || fail "this needs root" "type: sudo $0 $*"
	case ${1:-} in
	--uninstall) uninstall "${2:-}" ;;
	-*) fail "unknown option: $1" "read its first lines: sed -n 2,4p $0" ;;
	"") [ -e "$(dirname "$0")/../pyproject.toml" ] || fail "what shall be installed?" "give a wheel or a folder"
		install_tattle "$(dirname "$0")/.." ;;
	*) install_tattle "$1" ;;
	esac
}

main "$@"
