"""tattle's flows beside the wire's, connection by connection."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from tests.world.miniature.tattled import Tattle
from tests.world.miniature.truth import Connection, Wire, total
from tests.world.miniature.world import World

SETTLE_S = 10.0
RETRY_S = 0.05
CLOSING_PACKETS = 6  # a FIN, its answer, and what a busy machine sends again
CLOSING_BYTES = 120
T = TypeVar("T")
Flow = dict[str, Any]


class Peer(NamedTuple):
    """The other end of a flow."""

    remote: str
    proto: str
    port: int


def eventually(check: Callable[[], T]) -> T:
    """Return what CHECK returns as soon as it does not fail; after SETTLE_S seconds its failure counts."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(RETRY_S)


def peer(flow: Flow) -> Peer:
    """Return the other end of a flow."""
    return Peer(flow["remote_addr"], flow["proto"], flow["remote_port"])


def carried(flow: Flow) -> Wire:
    """Return the counters of a flow."""
    return Wire(flow["bytes_out"], flow["packets_out"], flow["bytes_in"], flow["packets_in"])


def by_peer(connections: dict[Connection, Wire]) -> dict[Peer, Wire]:
    """Sum connections up as tattle does: by the other end."""
    sums: dict[Peer, Wire] = defaultdict(Wire)
    for key, wire in connections.items():
        end = Peer(key.remote, key.proto, key.remote_port)
        sums[end] = sums[end].plus(wire)
    return dict(sums)


def closing_only(missing: Wire, connections: int) -> bool:
    """Say whether MISSING can be what no socket sends or receives any more.

    A socket that closed first becomes a TIME_WAIT entry (tcp_time_wait(), net/ipv4/tcp_minisocks.c): the
    peer's last FIN or data, and the ACK or RST for it, run no cgroup hook. None of these carries more than
    a TLS alert.
    """
    packets, size = CLOSING_PACKETS * connections, CLOSING_PACKETS * CLOSING_BYTES * connections
    fits = 0 <= missing.packets_out <= packets and 0 <= missing.packets_in <= packets
    return fits and 0 <= missing.bytes_out <= size and 0 <= missing.bytes_in <= size


class Watched:
    """What happens in one cgroup while the block runs, as tattle and as the wire tell it."""

    def __init__(self, world: World, tattle: Tattle, cgroup: str) -> None:
        self.world, self.tattle, self.cgroup = world, tattle, cgroup
        self.before = world.wire()

    def connections(self) -> dict[Connection, Wire]:
        """Return the connections that are new since then."""
        return {key: wire for key, wire in self.world.wire().items() if key not in self.before}

    def flows(self) -> list[Flow]:
        """Return the flows of the cgroup that left or entered the host."""
        return [flow for flow in self.tattle.flows(self.cgroup) if flow["scope"] != "loopback"]

    def compare(self, *, exact: bool) -> list[Flow]:
        """Return the flows, which must be those of the wire, byte for byte but for closing packets."""
        flows, connections = self.flows(), self.connections()
        wires = by_peer(connections)
        phases = {end: [flow for flow in flows if peer(flow) == end] for end in map(peer, flows)}
        assert sorted(phases) == sorted(wires)
        for end, rows in phases.items():
            seen = total(map(carried, rows))
            many = sum(end == Peer(key.remote, key.proto, key.remote_port) for key in connections)
            missing = wires[end].minus(seen)
            allowed = missing == Wire() or (not exact and end.proto == "tcp" and closing_only(missing, many))
            assert allowed, f"{end}: wire {wires[end]}, tattle {seen}"
        return flows

    def settled(self, *, exact: bool = False) -> list[Flow]:
        """Return the flows once they agree with the wire."""
        return eventually(lambda: self.compare(exact=exact))


@contextmanager
def watched(world: World, tattle: Tattle, group: str) -> Iterator[Watched]:
    """Have the cgroup /world/GROUP, and watch it."""
    with world.group(group) as path:
        yield Watched(world, tattle, path)
