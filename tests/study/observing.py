"""What happens in one stage of a runtime's life: by the servers that it asks, by the wire, and by tattle."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tests.world.miniature.tattled import Tattle
    from tests.world.miniature.truth import Connection, Wire
    from tests.world.miniature.world import World

Json = dict[str, Any]
HTTPS = 443
QUIET_S, PATIENCE_S = 3.0, 60.0
"""A stage is over when no server was asked anything for so long; and how long that may take."""


class Contact(NamedTuple):
    """One host in one stage, as the servers saw it: how often it was asked what."""

    host: str
    requests: int
    asked: tuple[str, ...]


class Told(NamedTuple):
    """What tattle told of one name in one stage, in one phase."""

    name: str
    phase: str
    connections: int
    bytes_out: int
    payload_out: int
    purpose: str


class Seen(NamedTuple):
    """A stage. `out` and `back` are bytes on the wire to and from port 443, `tattle_out` tattle's count.

    `refused`: the runtime did not do as it was asked.
    """

    stage: str
    contacts: tuple[Contact, ...]
    connections: int
    questions: int
    out: int
    back: int
    tattle_out: int
    told: tuple[Told, ...]
    refused: bool = False


class _Mark(NamedTuple):
    requests: int
    queries: int
    wire: dict[Connection, Wire]
    flows: dict[tuple[object, ...], Json]


class Observer:
    """Compares the world before and after a stage."""

    def __init__(self, world: World, tattle: Tattle, cgroup: str) -> None:
        self._world, self._tattle, self._cgroup = world, tattle, cgroup
        self._before = self._mark()

    def end(self, stage: str, *, least_s: float = 0.0) -> Seen:
        """Wait until it is quiet, and return what happened since the last end."""
        self._settle(least_s)
        before, after = self._before, self._mark()
        self._before = after
        requests = self._world.requests()[before.requests :]
        wires = [(key, _difference(before.wire.get(key), wire)) for key, wire in after.wire.items()]
        https = [(key, wire) for key, wire in wires if key.remote_port == HTTPS]
        moved = self._moved(before, after)
        return Seen(
            stage,
            _contacts(requests),
            sum(key not in before.wire for key, _ in https),
            after.queries - before.queries,
            sum(wire[0] for _, wire in https),
            sum(wire[1] for _, wire in https),
            sum(flow["bytes_out"] for flow in moved),
            _told(moved),
        )

    def _settle(self, least_s: float) -> None:
        started = changed = time.monotonic()
        count = -1
        while (now := time.monotonic()) < started + max(PATIENCE_S, least_s):
            if len(self._world.requests()) != count:
                count, changed = len(self._world.requests()), now
            if now - changed >= QUIET_S and now - started >= least_s:
                return
            time.sleep(0.2)

    def _mark(self) -> _Mark:
        flows = {_key(flow): flow for flow in self._tattle.flows(self._cgroup)}
        return _Mark(len(self._world.requests()), len(self._world.queries()), self._world.wire(), flows)

    def _moved(self, before: _Mark, after: _Mark) -> list[Json]:
        """Return what the flows to port 443 gained."""
        gained = []
        for key, flow in after.flows.items():
            then = before.flows.get(key, {})
            more = {
                name: flow[name] - then.get(name, 0)
                for name in ("attempts", "bytes_out", "bytes_in", "payload_out")
            }
            if flow["remote_port"] == HTTPS and flow["direction"] == "out" and any(more.values()):
                gained.append(flow | more)
        return gained


def _key(flow: Json) -> tuple[object, ...]:
    names = ("pid", "remote_addr", "remote_port", "proto", "direction", "phase")
    return tuple(flow[name] for name in names)


def _difference(before: Wire | None, after: Wire) -> tuple[int, int]:
    then = before or type(after)()
    return after.bytes_out - then.bytes_out, after.bytes_in - then.bytes_in


def _contacts(requests: list[Json]) -> tuple[Contact, ...]:
    hosts: dict[str, Counter[str]] = {}
    for one in requests:
        path = one["path"].partition("?")[0]
        parts = ["sha256:…" if len(part) > 60 else part for part in path.split("/")]
        hosts.setdefault(one["host"], Counter())[f"{one['method']} {'/'.join(parts)}"] += 1
    return tuple(
        Contact(
            host,
            counts.total(),
            tuple(f"{count} {what}" if count > 1 else what for what, count in counts.items()),
        )
        for host, counts in hosts.items()
    )


def _told(flows: list[Json]) -> tuple[Told, ...]:
    sums: dict[tuple[str, str], list[int]] = {}
    purposes: dict[tuple[str, str], str] = {}
    for flow in flows:
        key = (flow["name"] or flow["remote_addr"], flow["phase"])
        total = sums.setdefault(key, [0, 0, 0])
        total[0] += flow["attempts"]
        total[1] += flow["bytes_out"]
        total[2] += flow["payload_out"]
        purposes[key] = flow["purpose"] or "UNEXPECTED"
    return tuple(Told(*key, *total, purposes[key]) for key, total in sums.items())
