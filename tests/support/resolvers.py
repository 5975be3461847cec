"""Real resolvers and clients in the lab: servers with a log, clients that resolve and connect."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.support.daemon import until
from tests.support.network import MORE4, PEER4, PEER6, TRAFFIC, Lab, Namespace, die_with_parent, enter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cgroups import Jail

ALLOWED, HOSTED, OTHER = "registry.ollama.example", "hosted.example", "evil.example"
MANY, SOME = "many.example", "some.example"
"""A name whose answer does not fit into 512 bytes, and one for musl 1.2.3, which knows no TCP."""
UNBOUND, STUB, DOCKER = MORE4[3], "127.0.0.53", "127.0.0.11"
"""Where resolvers listen: at MORE4[1] a scenario serves on port 53 itself."""
PORT: Final = 5399
"""Where Docker's resolver really listens; programs ask 127.0.0.11:53 (libnetwork/resolver_unix.go)."""
RESOLVED = os.environ.get("TATTLE_TEST_RESOLVED")
"""The path of a systemd-resolved that is the stub then; else dnsmasq stands in for it."""
SEARCH: Final = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local")
MANY_ADDRESSES: Final = tuple(f"203.0.113.{number}" for number in range(100, 164))
TICK_S: Final = 0.02
"""A process' start is told in ticks of 10 ms."""
SOME_ADDRESSES: Final = MANY_ADDRESSES[:20]
_QUERY: Final = re.compile(r"query\[([\w=]+)\] (\S+) from")
_SERVICE: Final = re.compile(r"query\[(HTTPS|type=65)\]")

CONFIGS: Final = {
    "plain": "",
    "edns0": "options edns0 trust-ad\n",
    "use-vc": "options use-vc usevc\n",
    "ndots": f"search {' '.join(SEARCH)}\noptions ndots:5\n",
    "ndots-use-vc": f"search {' '.join(SEARCH)}\noptions ndots:5 use-vc usevc\n",
    "single-request": f"nameserver {PEER6}\noptions single-request-reopen rotate\n",
}
"""What stands in resolv.conf behind the first nameserver: of glibc, and `usevc` of c-ares."""
SERVERS: Final = {"dnsmasq": PEER4, "unbound": UNBOUND, "stub": STUB, "docker": DOCKER}


GO = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
JAVA, JAVAC, NODE = shutil.which("java"), shutil.which("javac"), shutil.which("node")
CLIENTS: Final = (
    *("glibc", "musl", "c-ares", "c-ares-tcp"),
    *(("go", "go-cgo") if GO else ()),
    *(("java",) if JAVA and JAVAC else ()),
    *(("node", "node-c-ares") if NODE else ()),
)
"""Those of the distribution, and of the languages that this host has."""


class Client(NamedTuple):
    """A program that takes a name and a port, resolves, connects to each address, and tells in JSON."""

    words: tuple[str, ...]
    environment: dict[str, str]


def clients(scratch: Path) -> dict[str, Client]:
    """Build all clients that this host has the tools for; those of the distribution are always there."""
    source = str(TRAFFIC / "resolve.c")
    programs = {
        "glibc": ("cc", "-O2", source),
        "musl": ("musl-gcc", "-O2", "-static", source),
        "c-ares": ("cc", "-O2", str(TRAFFIC / "cares.c"), "-lcares"),
    }
    made = {}
    for name, (compiler, *words) in programs.items():
        target = scratch / f"resolve-{name}"
        subprocess.run([compiler, "-o", str(target), *words], check=True)
        made[name] = Client((str(target),), {})
    made["c-ares-tcp"] = made["c-ares"]
    return made | _of_languages(scratch)


def _of_languages(scratch: Path) -> dict[str, Client]:
    """Build those in Go, Java and node, where they are installed."""
    made = {}
    if go := GO:
        target, cache = scratch / "resolve-go", {"GOCACHE": str(scratch / "go"), "GOFLAGS": "-mod=mod"}
        words = [go, "build", "-o", str(target), str(TRAFFIC / "resolve.go")]
        subprocess.run(words, check=True, env={**os.environ, **cache, "CGO_ENABLED": "1"})
        made["go"] = Client((str(target),), {"GODEBUG": "netdns=go"})
        made["go-cgo"] = Client((str(target),), {"GODEBUG": "netdns=cgo"})
    if (java := JAVA) and (javac := JAVAC):
        subprocess.run([javac, "-d", str(scratch), str(TRAFFIC / "Resolve.java")], check=True)
        made["java"] = Client((java, "-XX:TieredStopAtLevel=1", "-cp", str(scratch), "Resolve"), {})
    if node := NODE:
        made["node"] = Client((node, str(TRAFFIC / "resolve.js"), "lookup"), {})
        made["node-c-ares"] = Client((node, str(TRAFFIC / "resolve.js"), "resolve"), {})
    return made


def browser(scratch: Path, *options: str) -> Client:
    """Return Debian's Chromium, which prints the page that it is told to load, or that of its error."""
    words = (
        "sh",
        "-c",
        'exec "$@" 2>&1',
        "sh",
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
    )
    words += ("--no-first-run", "--ignore-certificate-errors", f"--user-data-dir={scratch / 'chromium'}")
    words += ("--enable-features=AsyncDns,UseDnsHttpsSvcb", *options, "--dump-dom")
    return Client(words, {})


class Servers:
    """dnsmasq at the peer, which keeps a log of what reaches it; resolvers before it that ask it."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        self._lab = lab
        self._scratch = scratch
        self._running: list[subprocess.Popen[bytes]] = []
        self.log = scratch / "queries.log"

    def start(self) -> None:
        """Start all, and wait until each listens."""
        hosts = self._scratch / "resolvers.hosts"
        named = [
            (MORE4[0], ALLOWED),
            (PEER6, ALLOWED),
            (MORE4[0], OTHER),
            *((one, MANY) for one in MANY_ADDRESSES),
            *((one, SOME) for one in SOME_ADDRESSES),
        ]
        hosts.write_text("".join(f"{address} {name}\n" for address, name in named))
        own = ["--local=/example/", "--local=/cluster.local/", f"--addn-hosts={hosts}", "--local-ttl=5"]
        own += ["--log-queries", f"--log-facility={self.log}"]
        self._dnsmasq(self._lab.peer_ns, (PEER4, PEER6), 53, *own)
        forward = (f"--server={PEER4}", "--cache-size=0")
        if RESOLVED:
            self._resolved(RESOLVED)
        else:
            self._dnsmasq(self._lab.client, (STUB,), 53, *forward)
        self._dnsmasq(self._lab.client, (DOCKER,), PORT, *forward)
        self._translate()
        self._unbound()

    def stop(self) -> None:
        """End all of them."""
        for one in self._running:
            one.terminate()
            one.wait(10)
        self._lab.client.run("nft", "delete", "table", "ip", "dockerdns")

    def asked(self, mark: int) -> set[str]:
        """Return the names of which queries have reached the peer since a mark, in lower case."""
        return {found[2].lower() for found in _QUERY.finditer(self.log.read_text()[mark:])}

    def mark(self) -> int:
        """Return how long the log is now."""
        return len(self.log.read_text())

    def asked_for_services(self, mark: int) -> bool:
        """Say whether a question of type HTTPS (65, RFC 9460) has reached the peer since a mark."""
        return bool(_SERVICE.search(self.log.read_text()[mark:]))

    def _spawn(self, namespace: Namespace, *words: str) -> None:
        def prepare() -> None:
            die_with_parent()
            enter(namespace.fd)

        self._running.append(subprocess.Popen(words, preexec_fn=prepare))  # noqa: PLW1509 - no threads here

    def _dnsmasq(self, namespace: Namespace, listen: tuple[str, ...], port: int, *options: str) -> None:
        words = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--pid-file"]
        words += ["--conf-file=/dev/null", "--bind-interfaces", f"--listen-address={','.join(listen)}"]
        self._spawn(namespace, *words, f"--port={port}", *options)
        self._await(namespace, listen[0], port)

    def _resolved(self, program: str) -> None:
        """Run systemd-resolved, with a configuration, a user and a runtime directory of its own."""
        settings = "LLMNR=no\nMulticastDNS=no\nDNSSEC=no\nCache=no\nFallbackDNS=\n"
        (self._scratch / "resolved.conf").write_text(f"[Resolve]\nDNS={PEER4}\n{settings}")
        for name, line in (("passwd", "x:993:993::/:/bin/false"), ("group", "x:993:")):
            known = Path("/etc", name).read_text().splitlines()
            others = [one for one in known if not one.startswith("systemd-resolve:")]
            (self._scratch / name).write_text("\n".join([*others, f"systemd-resolve:{line}"]) + "\n")
        script = (
            "mkdir -p /run/systemd; mount -t tmpfs none /run/systemd; mount -t tmpfs none /etc/systemd\n"
            'cp "$0/resolved.conf" /etc/systemd/\n'
            'for one in passwd group; do mount --bind "$0/$one" "/etc/$one"; done; exec "$1"'
        )
        self._spawn(self._lab.client, "unshare", "--mount", "sh", "-ec", script, str(self._scratch), program)
        self._await(self._lab.client, f"{STUB}%lo", 53)

    def _unbound(self) -> None:
        """Run a resolver that writes names in mixed case (0x20) and keeps no answer."""
        conf = self._scratch / "unbound.conf"
        conf.write_text(
            f'server:\n interface: {UNBOUND}\n access-control: 0.0.0.0/0 allow\n chroot: ""\n username: ""\n'
            ' pidfile: ""\n do-daemonize: no\n use-syslog: no\n logfile: ""\n verbosity: 0\n'
            ' module-config: "iterator"\n use-caps-for-id: yes\n do-not-query-localhost: no\n'
            ' local-zone: "example." nodefault\n cache-max-ttl: 0\n'
            f'forward-zone:\n name: "."\n forward-addr: {PEER4}\n forward-no-cache: yes\n'
        )
        self._spawn(self._lab.peer_ns, "unbound", "-d", "-c", str(conf))
        self._await(self._lab.peer_ns, UNBOUND, 53)

    def _translate(self) -> None:
        """Docker's own rules for its resolver, in the words of nftables."""
        rules = "".join(
            f"add rule ip dockerdns output ip daddr {DOCKER} {proto} dport 53 dnat to {DOCKER}:{PORT}\n"
            f"add rule ip dockerdns postrouting ip saddr {DOCKER} {proto} sport {PORT} snat to :53\n"
            for proto in ("udp", "tcp")
        )
        chains = (
            "add table ip dockerdns\n"
            "add chain ip dockerdns output { type nat hook output priority -100; }\n"
            "add chain ip dockerdns postrouting { type nat hook postrouting priority 100; }\n"
        )
        self._lab.client.run("nft", "-f", "-", text=chains + rules)

    def _await(self, namespace: Namespace, address: str, port: int) -> None:
        def listens() -> list[str]:
            ended = self._running[-1].poll()
            assert ended is None, f"{self._running[-1].args} has ended with {ended}"
            found = namespace.run("ss", "-Hltn", "sport", "=", str(port))
            return [] if f"{address}:{port} " in found else [f"nothing listens at {address}:{port}"]

        until(listens)


class Resolving:
    """A jail whose processes see files of their own, as in a container, by which they look names up."""

    def __init__(self, jail: Jail, scratch: Path, port: int) -> None:
        self.jail = jail
        self.port = port
        self._conf, self._hosts, self._switch = (
            scratch / f"{name}-{jail.inside.name}" for name in ("resolv", "hosts", "nsswitch")
        )
        self._hosts.write_text(f"127.0.0.1 localhost\n{MORE4[2]} {HOSTED}\n")
        self._switch.write_text("hosts: files dns\n")
        self.configure("")

    def configure(self, config: str, server: str = PEER4) -> None:
        """Write resolv.conf anew."""
        self._conf.write_text(f"nameserver {server}\n{config}")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have a process in the jail that sees the files; it starts after they are written."""
        until(lambda: [] if time.time() > self._hosts.stat().st_ctime + TICK_S else ["the same tick"])
        places = ((self._conf, "resolv.conf"), (self._hosts, "hosts"), (self._switch, "nsswitch.conf"))
        binds = "; ".join(f"mount --bind {file} /etc/{name}" for file, name in places)
        script = f"echo $$ >{self.jail.inside}/cgroup.procs; {binds}; echo; exec cat"
        words = ["unshare", "--mount", "sh", "-ec", script]
        self._holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"\n"
        try:
            yield
        finally:
            self._holder.kill()
            self._holder.wait(10)

    def run(self, client: Client, *words: str) -> str:
        """Run a client in the jail, and return what it prints."""
        inside = (f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *client.words, *words)
        network = self.jail.lab.client.fd

        def prepare() -> None:
            die_with_parent()
            enter(network)
            (self.jail.inside / "cgroup.procs").write_text("0")

        return subprocess.run(
            ["nsenter", *inside],
            env={**os.environ, **client.environment},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            preexec_fn=prepare,
        ).stdout

    def resolve(self, client: Client, name: str, *more: str) -> dict[str, Any]:
        """Have a name looked up, and connect to each address: {"error", "addresses": {address: errno}}."""
        said: dict[str, Any] = json.loads(self.run(client, name, str(self.port), *more))
        met = {str(ipaddress.ip_address(text)): code for text, code in said["addresses"].items()}
        return {"error": said["error"], "addresses": met}
