"""A network of the tests' own, with an independent count of every packet at both ends of its wire.

Two namespaces, `client` (traffic programs run there; cgroup hooks see all namespaces alike) and `peer`, are
joined by a veth pair without offloads. What the client sends is counted at the peer, what it receives at the
client (wire.py): that is the truth which tests compare with. Names carry a random token, so that several runs
never meet and a run that was killed leaves nothing in the way.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.support import links
from tests.support.links import End
from tests.support.packet_counters import CLIENT4, CLIENT6, Namespace, Wire, die_with_parent, enter, wires

__all__ = ["CLIENT4", "CLIENT6", "Lab", "Namespace", "Program", "Wire", "wires"]

INTERPRETER = Path(sys.executable).resolve()
TRAFFIC = Path(__file__).parents[1] / "kernel" / "traffic"
PEER4, PEER6 = "198.51.100.1", "2001:db8:1::1"
MORE4 = ("203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4")
"""Further addresses of the peer."""
STRANGER4 = "203.0.113.7"
"""One more: no test's resolver has a name for it, so that no daemon has ever heard of one."""
SILENT4, SILENT6 = "203.0.113.250", "2001:db8:1::250"
"""The peer counts and drops what comes for these: a connect there times out."""
UNREACHABLE4 = "203.0.113.251"
"""The client has no way there: connect fails at once with EHOSTUNREACH."""
TRANSLATED4 = "203.0.113.252"
"""What the client's programs send there goes elsewhere, by rules that stay (translate)."""
CONTAINER4, CONTAINER_PEER4 = "203.0.113.66", "203.0.113.65"
_PORTS, _NUMBERS = itertools.count(20_001), itertools.count(1)
PATIENCE = 90.0
"""Seconds that a traffic program may take before the test gives up on it."""


def cgroup2_root() -> Path:
    """Return where cgroup v2 is mounted, read from /proc/self/mountinfo as proc(5) describes it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    raise FileNotFoundError("no cgroup2 mount in /proc/self/mountinfo")


@dataclass
class Program:
    """A running traffic program and what it printed."""

    name: str
    process: subprocess.Popen[str]
    exe: str
    cgroup: str
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    def ready(self) -> dict[str, Any]:
        """Wait for the program's next line: it is prepared, and waits for `go`."""
        line = _pipe(self.process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self.name} ended early: {self.process.communicate()[1]}")
        self.lines.append(json.loads(line))
        return self.lines[-1]

    def go(self, word: str = "go") -> None:
        """Let a prepared program go on."""
        stream = _pipe(self.process.stdin)
        stream.write(word + "\n")
        stream.flush()

    def result(self, *, status: int = 0) -> dict[str, Any]:
        """Wait for its end (at most PATIENCE seconds) and return the JSON object it printed last."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise RuntimeError(f"{self.name} did not end: {out} {err}") from None
        if self.process.returncode != status:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {out} {err}")
        self.lines += [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return self.lines[-1]


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("no pipe")
    return stream


class Container(NamedTuple):
    """A container as an engine makes it: a cgroup named by 64 hex digits, and a network namespace."""

    id: str
    cgroup: Path
    namespace: Namespace

    @property
    def short_id(self) -> str:
        """Return the twelve digits that engines show."""
        return self.id[:12]


class Peer:
    """The counting servers in the peer's namespace (traffic/peer.py)."""

    def __init__(self, namespace: Namespace) -> None:
        def prepare() -> None:
            die_with_parent()
            enter(namespace.fd)

        self._process = subprocess.Popen(
            [sys.executable, "-E", "-s", str(TRAFFIC / "peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,  # noqa: PLW1509 - no threads here
        )

    def ask(self, **order: object) -> dict[str, Any]:
        """Send one order and return the answer."""
        self.tell(**order)
        return self.answer()

    def tell(self, **order: object) -> None:
        """Send one order; the answer is fetched later."""
        stream = _pipe(self._process.stdin)
        stream.write(json.dumps(order) + "\n")
        stream.flush()

    def answer(self) -> dict[str, Any]:
        """Return the answer to the oldest order."""
        answer: dict[str, Any] = json.loads(_pipe(self._process.stdout).readline())
        if "error" in answer:
            raise RuntimeError(f"peer: {answer['error']}")
        return answer

    def serve(self, kind: str = "tcp", host: str = PEER4, port: int = 0) -> int:
        """Serve on a fresh port and return it."""
        return int(self.ask(do=kind, host=host, port=port or next(_PORTS))["port"])

    def stats(self, port: int) -> dict[str, int]:
        """Return what the server of a port has counted: payload bytes, connections, datagrams."""
        return self.ask(do="stats", port=port)

    def close(self) -> None:
        """End the servers."""
        _pipe(self._process.stdin).close()
        self._process.wait(timeout=10)


def sweep(cgroup_root: Path) -> None:
    """Remove namespaces and cgroups of runs that were killed: their names tell whose they were."""
    for namespace in Path("/run/netns").glob("lab-*-*-?"):
        _, token, pid, _ = namespace.name.split("-")
        if Path(f"/proc/{pid}").exists():
            continue
        links.remove(namespace.name)
        for directory in sorted((cgroup_root / f"lab-{token}").glob("**/"), reverse=True):
            directory.rmdir()


class Lab:
    """The whole: namespaces, wire, servers, cgroups, and traffic programs under fresh names."""

    def __init__(self, scratch: Path) -> None:
        self.token = secrets.token_hex(3)
        self.scratch = scratch
        self.cgroup_root = cgroup2_root()
        sweep(self.cgroup_root)
        self._cgroups: list[Path] = []
        self._programs: list[Program] = []
        self._container: Namespace | None = None
        self._offloaded: dict[int, str] = {}
        self._namespaces: list[Namespace] = []
        self.client = self._namespace("c")
        drop = f"ip daddr {SILENT4} drop; ip6 daddr {SILENT6} drop".split("; ")
        self.peer_ns = self._namespace("p", "\n    ".join(drop))
        self._wire_up()
        self.peer = Peer(self.peer_ns)

    def _namespace(self, role: str, rules: str = "") -> Namespace:
        made = Namespace(f"lab-{self.token}-{os.getpid()}-{role}", rules)
        self._namespaces.append(made)
        return made

    def cable(self, left: tuple[Namespace, str], right: tuple[Namespace, str]) -> None:
        """Join two namespaces by a veth pair with all offloads off."""
        (one, one_device), (two, two_device) = left, right
        links.join(End(one.name, one_device), End(two.name, two_device))
        for namespace, device in (left, right):
            links.up(End(namespace.name, device))
            offloads = ["gso", "off", "tso", "off", "gro", "off", "tx-udp-segmentation", "off"]
            namespace.run("ethtool", "-K", device, *offloads)

    def _wire_up(self) -> None:
        self.cable((self.client, "wire"), (self.peer_ns, "wire"))
        for namespace, four, six in ((self.client, CLIENT4, CLIENT6), (self.peer_ns, PEER4, PEER6)):
            wire = End(namespace.name, "wire")
            links.assign(
                wire, f"{four}/24", broadcast=str(ip_interface(f"{four}/24").network.broadcast_address)
            )
            links.assign(wire, f"{six}/64")
            namespace.sysctl(tcp_fastopen=519, ping_group_range="0 2147483647", tcp_syn_retries=1)
            self._quiet(namespace)
        links.assign(End(self.peer_ns.name, "wire"), *(f"{one}/32" for one in (*MORE4, STRANGER4, SILENT4)))
        links.assign(End(self.peer_ns.name, "wire"), f"{SILENT6}/64", preferred_lft=0)
        links.route(self.client.name, "203.0.113.0/24", via=PEER4)
        links.no_route(self.client.name, UNREACHABLE4, "unreachable")
        links.route(self.client.name, "224.0.0.0/4", device="wire")

    def port(self) -> int:
        """Return a port that no other row of any lab uses, below the kernel's ephemeral range."""
        return next(_PORTS)

    def peer_mac(self) -> str:
        """Return the link address of the peer's end of the wire."""
        return links.mac_of(End(self.peer_ns.name, "wire"))

    @staticmethod
    def parent() -> dict[str, object]:
        """Return what is known of the process that starts traffic programs: this one."""
        return {"ppid": os.getpid(), "parent_comm": Path("/proc/self/comm").read_text().rstrip("\n")}

    def translate(self, proto: str, port: int, to: str, to_port: int) -> None:
        """Send what the client's programs send to TRANSLATED4 to another address: local destination NAT."""
        chain = "chain output { type nat hook output priority -100; };"
        self.client.run("nft", "-f", "-", text=f"table ip labnat {{ {chain} }}")
        rule = f"add rule ip labnat output ip daddr {TRANSLATED4} {proto} dport {port} dnat to {to}:{to_port}"
        self.client.run("nft", *rule.split())

    def lose(self, port: int, one_of: int) -> None:
        """Lose every so-many-th packet to a port of the peer, behind its counter."""
        rule = f"add rule inet lab lossy tcp dport {port} numgen inc mod {one_of} == 0 drop"
        self.peer_ns.run(
            "nft", "-f", "-", text="table inet lab { chain lossy { type filter hook input priority 0; }; }"
        )
        self.peer_ns.run("nft", *rule.split())

    def drained(self, port: int, size: int) -> None:
        """Wait until a server of the peer has read so many bytes."""
        deadline = time.monotonic() + PATIENCE
        while self.peer.stats(port).get("bytes_in", 0) < size:
            if time.monotonic() > deadline:
                raise RuntimeError(f"port {port}: {self.peer.stats(port)}, not {size}")
            time.sleep(0.02)

    def offloaded_wire(self, most: int) -> str:
        """Make a second wire whose super-packets of `most` bytes stay whole; return the peer's address."""
        number = len(self._offloaded) + 1
        mine, device = f"2001:db8:59:{number}::2", f"big{number}"
        if most not in self._offloaded:
            self._offloaded[most] = f"2001:db8:59:{number}::1"
            links.join(End(self.client.name, device), End(self.peer_ns.name, device))
            for namespace, address in ((self.client, mine), (self.peer_ns, self._offloaded[most])):
                links.assign(End(namespace.name, device), f"{address}/64")
                links.up(End(namespace.name, device), gso_max_size=most)
        return self._offloaded[most]

    def container(self, parent: str = "docker") -> Container:
        """Make a container's cgroup and its namespace, wired to the peer."""
        if self._container is None:
            self._container = self._namespace("k")
            self.cable((self._container, "eth0"), (self.peer_ns, "inner"))
            links.assign(End(self._container.name, "eth0"), f"{CONTAINER4}/26")
            links.assign(End(self.peer_ns.name, "inner"), f"{CONTAINER_PEER4}/26")
        name = secrets.token_hex(32)
        leaf = f"docker-{name}.scope" if parent.endswith(".slice") else name
        return Container(name, self.cgroup(f"{parent}/{leaf}"), self._container)

    def _quiet(self, namespace: Namespace) -> None:
        """Have nothing on the wire but the programs' own: no address resolution, no router discovery."""
        other = self.peer_ns if namespace is self.client else self.client
        mac = links.mac_of(End(other.name, "wire"))
        four, six = (PEER4, PEER6) if namespace is self.client else (CLIENT4, CLIENT6)
        for address in (four, six):
            links.know(End(namespace.name, "wire"), address, mac)
        for name in ("router_solicitations=0", "accept_ra=0", "autoconf=0"):
            namespace.run("sysctl", "-q", "-w", f"net.ipv6.conf.wire.{name}")

    def name(self, stem: str) -> str:
        """Return a fresh executable name of at most 15 characters, told from all others of this session."""
        return f"{stem[:7]}-{self.token[:3]}{next(_NUMBERS):03d}"

    def cgroup(self, path: str, *, fresh: bool = True) -> Path:
        """Make a cgroup below the v2 root (and its parents), removed at the end; return its directory."""
        directory = self.cgroup_root / path.lstrip("/")
        missing = [d for d in (directory, *directory.parents) if not d.exists()]
        if fresh and not missing:
            raise FileExistsError(directory)
        for part in reversed(missing):
            part.mkdir()
            self._cgroups.append(part)
        return directory

    def cgroup_path(self, directory: Path) -> str:
        """Return a cgroup's path as reports give it: from the v2 root."""
        return f"/{directory.relative_to(self.cgroup_root)}"

    def program(self, source: str, name: str) -> list[str]:
        """Return the command for a traffic program under a name of its own: a copy of its binary."""
        place = self.scratch / name
        if not place.exists():
            shutil.copy2(self.build(source) if source.endswith(".c") else INTERPRETER, place)
        if source.endswith(".c"):
            return [str(place)]
        return [str(place), "-E", "-s", str(TRAFFIC / source)]

    def build(self, source: str) -> Path:
        """Compile one C traffic program, statically, once a session."""
        binary = self.scratch / f"built-{source.removesuffix('.c')}"
        if not binary.exists():
            flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
            subprocess.run(["cc", *flags, "-o", str(binary), str(TRAFFIC / source)], check=True)
        return binary

    def start(
        self,
        source: str,
        *words: str,
        name: str | None = None,
        cgroup: Path | None = None,
        namespace: Namespace | None = None,
        exe: str | None = None,
        **arguments: object,
    ) -> Program:
        """Start a traffic program in a namespace and a cgroup of choice, under a name of its own."""
        chosen = name or self.name(Path(source).stem)
        command = [exe] if exe else self.program(source, chosen)
        inside = (namespace or self.client).fd

        def prepare() -> None:
            die_with_parent()
            enter(inside)
            if cgroup:
                (cgroup / "cgroup.procs").write_text("0")

        process = subprocess.Popen(
            [*command, *(words or [json.dumps(arguments)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,  # noqa: PLW1509 - no threads here
        )
        path = self.cgroup_path(cgroup) if cgroup else own_cgroup()
        started = Program(chosen, process, command[0], path)
        self._programs.append(started)
        return started

    def run(
        self,
        source: str,
        *words: str,
        **options: Any,  # noqa: ANN401 - those of start()
    ) -> tuple[Program, dict[str, Any]]:
        """Start a traffic program and wait for its result."""
        started = self.start(source, *words, **options)
        return started, started.result()

    def wire(self, proto: str, remote: str, port: int | None, client: Namespace | None = None) -> Wire:
        """Return what passed between the client's side and one remote address (and port)."""
        return wires(self.peer_ns, client or self.client, [(proto, remote, port)])[0]

    def close(self) -> None:
        """End what still runs and take everything down, in the order in which it can go."""
        for program in self._programs:
            if program.process.poll() is None:
                program.process.kill()
            program.process.communicate()
        self.peer.close()
        for namespace in self._namespaces:
            namespace.close()
        for directory in reversed(self._cgroups):
            if directory.exists():
                directory.rmdir()


def own_cgroup() -> str:
    """Return the cgroup v2 path of this process."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    raise RuntimeError("no cgroup v2 line in /proc/self/cgroup")
