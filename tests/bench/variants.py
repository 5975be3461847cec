"""What is compared: each variant is a context manager that puts something on the packets' way."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.world import CLIENT, NAME, SERVER, World, command, in_namespace

HERE = Path(__file__).parent
TOP = HERE.parents[1]
OBJECT = TOP / "tracer/objects/tattle.bpf.o"
INSTANCE = "bench"
DATAGRAMS = ("udp-connected", "udp-one", "udp-many")
KINDS = ("tcp-connect", "tcp-connect on 2 cores", "tcp-bulk", "tcp-pingpong", *DATAGRAMS)
ONE_END = "tcp-connect at one end"


@dataclass(frozen=True)
class Variant:
    """One column of the table; `denied`: its operations must fail with EPERM."""

    name: str
    enter: Callable[[World], AbstractContextManager[object]]
    kinds: tuple[str, ...] = KINDS
    roads: tuple[str, ...] = ("veth", "loopback")
    denied: bool = False


def nothing(_world: World) -> AbstractContextManager[object]:
    """No hook, no rule."""
    return contextlib.nullcontext()


def held(
    path: Path, *settings: str, cgroup: Callable[[World], Path]
) -> Callable[[World], AbstractContextManager[object]]:
    """All programs of a BPF object, attached without any daemon."""

    @contextlib.contextmanager
    def enter(world: World) -> Iterator[None]:
        words = (str(HERE / "build/hold"), str(path), str(cgroup(world)), *settings)
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdin
            assert holder.stdout
            if holder.stdout.readline() != "ready\n":
                raise SystemExit(f"bench: {path.name} could not be attached (its reason stands above)")
            yield
            holder.stdin.close()

    return enter


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass(frozen=True)
class Daemon:
    """A running tattle."""

    process: subprocess.Popen[str]
    port: int

    def scrape(self) -> str:
        """Give the metrics' text."""
        return command("curl", "-sSf", "--max-time", "30", f"http://127.0.0.1:{self.port}/metrics")


START_SECONDS = 60
"""More than any start takes, also on a crowded machine."""


def tattle(*words: str) -> tuple[str, ...]:
    """Give the command line of a tattle command on the bench's instance."""
    return (str(Path(sys.executable).parent / "tattle"), *words, "--instance", INSTANCE)


@contextlib.contextmanager
def daemon(*more: str, log: str = "/dev/null") -> Iterator[Daemon]:
    """Run the daemon on a free port, with its event log written to `log`."""
    port = free_port()
    words = tattle("run", "--listen", f"127.0.0.1:{port}", "--log-file", log, *more)
    with (
        _notified() as ready,
        subprocess.Popen(
            words,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"NOTIFY_SOCKET": str(ready.getsockname())},
        ) as process,
    ):
        try:
            while b"READY=1" not in ready.recv(4096):
                continue
            yield Daemon(process, port)
        except TimeoutError:
            raise SystemExit(f"bench: the daemon did not start in {START_SECONDS} s") from None
        finally:
            process.terminate()
            process.communicate(timeout=30)


@contextlib.contextmanager
def _notified() -> Iterator[socket.socket]:
    """Listen for what a service tells systemd (sd_notify(3))."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        listener.bind(f"{folder}/notify")
        listener.settimeout(START_SECONDS)
        yield listener


def traced(*more: str) -> Callable[[World], AbstractContextManager[object]]:
    """Tattle as its users run it."""
    return lambda _world: daemon(*more)


@contextlib.contextmanager
def _rules(text: str) -> Iterator[None]:
    """Load a ruleset into both namespaces: what BPF hooks count, both ends count."""
    for namespace in (CLIENT, SERVER):
        in_namespace(namespace, "nft", "-f", "-", given=text)
    try:
        yield
    finally:
        for namespace in (CLIENT, SERVER):
            in_namespace(namespace, "nft", "delete", "table", "inet", "bench")


def _match(world: World) -> str:
    """Write the rule's condition (nft looks below /sys/fs/cgroup, also where v2 is mounted deeper)."""
    path = world.cgroup.relative_to("/sys/fs/cgroup")
    return f'socket cgroupv2 level 1 "{path}"'


def _table(output: str, received: str, sets: str = "") -> str:
    return f"""table inet bench {{
{sets}
chain sent {{
type filter hook output priority 0
{output}
}}
chain received {{
type filter hook input priority 0
{received}
}}
}}
"""


def nft_counter(world: World) -> AbstractContextManager[object]:
    """Use one counter for all that the cgroup sends and receives."""
    return _rules(_table(f"{_match(world)} counter", f"{_match(world)} counter"))


def nft_set(world: World) -> AbstractContextManager[object]:
    """Count each destination apart: what it takes to answer "how much to whom"."""
    kind = "type ipv4_addr . inet_proto . inet_service; size 65536; flags dynamic; counter;"
    sets = f"set to {{ {kind} }}\nset from {{ {kind} }}"
    output = f"{_match(world)} update @to {{ ip daddr . meta l4proto . th dport }}"
    received = f"{_match(world)} update @from {{ ip saddr . meta l4proto . th sport }}"
    return _rules(_table(output, received, sets))


def nft_drop(world: World) -> AbstractContextManager[object]:
    """Deny the same by a netfilter rule."""
    return _rules(_table(f"{_match(world)} ip daddr != 198.51.100.0/24 counter drop", ""))


@contextlib.contextmanager
def iptables_drop(_world: World) -> Iterator[None]:
    """Deny it the old way: an owner match (the load runs as root)."""
    rule = ("OUTPUT", "-d", "203.0.113.0/24", "-m", "owner", "--uid-owner", "0", "-j", "DROP")
    in_namespace(CLIENT, "iptables", "-A", *rule)
    try:
        yield
    finally:
        in_namespace(CLIENT, "iptables", "-D", *rule)


def blocked(
    *rules: str, target: str = f"cgroup:/{NAME}"
) -> Callable[[World], AbstractContextManager[object]]:
    """Tattle with a block on the bench's cgroup, or on another one."""

    @contextlib.contextmanager
    def enter(_world: World) -> Iterator[None]:
        with daemon():
            command(*tattle("block", target), *rules)
            try:
                yield
            finally:
                command(*tattle("unblock", target))

    return enter


def allowances(count: int) -> tuple[str, ...]:
    """As many CIDR rules, and those which the bench's packets need."""
    networks = ["198.51.100.0/24", "203.0.113.0/24"]
    networks += [f"10.{i >> 8}.{i & 255}.0/24" for i in range(count - len(networks))]
    return tuple(word for network in networks for word in ("--allow", network))


def root(world: World) -> Path:
    """Attach for the whole host."""
    return world.cgroup_root


def own(world: World) -> Path:
    """Attach to the bench's cgroup, as systemd attaches to a unit's."""
    return world.cgroup


EMPTY = Variant("empty", held(HERE / "build/empty.bpf.o", cgroup=root))
NONE = Variant("none", nothing, kinds=(*KINDS, ONE_END))
AT_ONE_END = (
    Variant("empty, there only", held(HERE / "build/empty.bpf.o", cgroup=own), kinds=(ONE_END,)),
    Variant("tattle, there only", held(OBJECT, cgroup=own), kinds=(ONE_END,)),
)
"""A connection to another host has one end here; on the bench's host both are watched."""
TRACING = (
    NONE,
    EMPTY,
    Variant("tattle", traced()),
    Variant("tattle --loopback", traced("--loopback"), roads=("loopback",)),
    Variant("nft counter", nft_counter),
    Variant("nft set", nft_set, kinds=DATAGRAMS),
    *AT_ONE_END,
)
KERNEL_HALF = (
    NONE,
    EMPTY,
    Variant("tattle", held(OBJECT, cgroup=root)),
    Variant("tattle --loopback", held(OBJECT, "loopback=1", cgroup=root), roads=("loopback",)),
    Variant("nft counter", nft_counter),
    Variant("nft set", nft_set, kinds=DATAGRAMS),
    *AT_ONE_END,
)


def build(path: Path) -> Variant:
    """Compare another build of tattle's object, by its path."""
    return Variant(str(path), held(path, cgroup=root))


_ONE = ("udp-one",)
_VETH = ("veth",)
_ALLOWED = ("tcp-pingpong", *DATAGRAMS)
_ALL = ("tcp-connect", *_ALLOWED)
_OTHER = f"cgroup:/{NAME}-other"
IP_DENY = HERE / "build/ipdeny.bpf.o"
BLOCKING = (
    Variant("none", nothing, kinds=_ALL, roads=_VETH),
    Variant("tattle", traced(), kinds=_ALL, roads=_VETH),
    Variant("target watched", traced("--target", f"cgroup:/{NAME}"), kinds=_ALLOWED, roads=_VETH),
    Variant("block elsewhere", blocked(target=_OTHER), kinds=_ALL, roads=_VETH),
    Variant("block, denied", blocked(), kinds=("tcp-denied", *_ONE), roads=_VETH, denied=True),
    Variant("nft drop", nft_drop, kinds=_ONE, roads=_VETH, denied=True),
    Variant("iptables owner drop", iptables_drop, kinds=_ONE, roads=_VETH, denied=True),
    Variant("block, 10 allowed", blocked(*allowances(10)), kinds=_ALLOWED, roads=_VETH),
    Variant("block, 10000 allowed", blocked(*allowances(10_000)), kinds=_ALLOWED, roads=_VETH),
    Variant("IPAddressDeny, 10", held(IP_DENY, "cidrs=10", cgroup=own), kinds=_ALLOWED, roads=_VETH),
    Variant("IPAddressDeny, 10000", held(IP_DENY, "cidrs=10000", cgroup=own), kinds=_ALLOWED, roads=_VETH),
)
