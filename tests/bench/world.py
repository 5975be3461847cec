"""The bench's own network and cgroup: nothing of the host is touched but by what is measured.

Two namespaces joined by a veth pair, 198.51.100.0/24 (TEST-NET-2, RFC 5737). The server's side drops what
goes to 203.0.113.0/24 (TEST-NET-3) by a blackhole route, so that a datagram's cost is the sender's alone.
"""

import contextlib
import fcntl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.support import links
from tests.support.links import End

NAME = "tattle-bench"
CLIENT = f"{NAME}-client"
SERVER = f"{NAME}-server"
ADDRESSES = 250
"""Distinct addresses for many destinations: what fits into a /24 with room for the network's own."""


@dataclass(frozen=True)
class Road:
    """A way that packets take: the arguments that send the load generator along it."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """What exists while the bench runs."""

    cgroup: Path
    cgroup_root: Path
    roads: tuple[Road, ...]


def command(*words: str, given: str | None = None) -> str:
    """Run a command and give its output. Ends the bench with the command's own words when it fails."""
    done = subprocess.run(words, input=given, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: this failed: {' '.join(words)}\n  it said: {done.stderr.strip()}")
    return done.stdout


def in_namespace(namespace: str, *words: str, given: str | None = None) -> str:
    """Run a command in one of the bench's networks (`ip netns exec` would hide the cgroups, too)."""
    return command("nsenter", f"--net=/run/netns/{namespace}", *words, given=given)


def cgroup2_root() -> Path:
    """Where cgroup v2 is mounted, by the kernel's own list (proc(5), mountinfo)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if source.split()[0] == "cgroup2":
            return Path(mount.split()[4])
    raise SystemExit("bench: no cgroup v2 mount\n  mount one: mount -t cgroup2 none /sys/fs/cgroup")


def _only_one() -> TextIO:
    """Wait until no other bench runs: two would measure each other."""
    lock = Path(f"/run/{NAME}.lock").open("w")  # noqa: SIM115 - held until the bench ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _clear(cgroup: Path) -> None:
    """Remove what this or a killed bench made."""
    for namespace in (CLIENT, SERVER):
        links.remove(namespace)
    if cgroup.exists():
        cgroup.rmdir()


def _build_network() -> None:
    for namespace in (CLIENT, SERVER):
        links.make(namespace)
    links.join(End(CLIENT, "v0"), End(SERVER, "v0"))
    for namespace, address in ((CLIENT, "198.51.100.1/24"), (SERVER, "198.51.100.2/24")):
        links.assign(End(namespace, "v0"), address)
        links.up(End(namespace, "v0"))
    links.route(CLIENT, "203.0.113.0/24", via="198.51.100.2")
    links.no_route(SERVER, "203.0.113.0/24", "blackhole")


@contextlib.contextmanager
def built() -> Iterator[World]:
    """Make the world, take it away in the end."""
    root = cgroup2_root()
    cgroup = root / NAME
    common = ("-g", str(cgroup), "-c", f"/run/netns/{CLIENT}", "-a", str(ADDRESSES))
    across = ("-s", f"/run/netns/{SERVER}", "-h", "198.51.100.2", "-d", "203.0.113.1")
    within = ("-s", f"/run/netns/{CLIENT}", "-h", "127.0.0.1", "-d", "127.1.0.1")
    lock = _only_one()
    _clear(cgroup)
    try:
        _build_network()
        cgroup.mkdir()
        yield World(cgroup, root, (Road("veth", common + across), Road("loopback", common + within)))
    finally:
        _clear(cgroup)
        lock.close()
