"""The words in which the scenario table is written: what to expect, and how it is compared.

A row makes real traffic and returns what a correct report says about it. Each expectation names the
counters at the wire's ends that are its truth; a report agrees to the byte or the row fails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.network import Lab, Namespace, Wire, wires

TIMESTAMPED4, TIMESTAMPED6 = 52, 72
"""Bytes of a TCP packet without data: IP header, TCP header, timestamps (RFC 7323)."""
RESET4, RESET6 = 40, 60
"""Bytes of a reset that answers for no socket: IP and TCP header."""

NOTHING = Wire(0, 0, 0, 0)
Unseen = tuple[tuple[int, int], ...]
Key = tuple[str, str, int | None, str]


class Ending(str):
    """Equal to every text that ends like it."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.endswith(str(self))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(str(self))


@dataclass(frozen=True)
class Want:
    """One flow of a correct report.

    `wire` is where the truth is counted (protocol, address, port), when it is not the flow's own address.
    `unseen_out` and `unseen_in` list the packets that no hook can see, as (size, at most how many): a closed
    socket's last acknowledgement is sent and its peer's FIN received by a TIME_WAIT entry, which is no
    socket with a cgroup. `offloaded` says that the wire carries super-packets. `exact`
    replaces the truth where the hook's packet is not the wire's (fragments).
    """

    comm: str
    proto: str
    remote: str
    port: int | None
    direction: str = "out"
    scope: str = "internet"
    attempts: int = 1
    established: int | None = None
    pids: frozenset[int] | None = None
    rows: int | None = None
    wire: tuple[str, str, int | None] | None = None
    before: Wire = NOTHING
    client: Namespace | None = None
    unseen_out: Unseen = ()
    unseen_in: Unseen = ()
    exact: Wire | None = None
    offloaded: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Return what tells one flow of a process name from another."""
        return (self.proto, self.remote, self.port, self.direction)

    @property
    def on_loopback(self) -> bool:
        """Say whether only a daemon with --loopback reports it."""
        return self.scope == "loopback" and self.port != 53


@dataclass(frozen=True)
class Expectation:
    """What one row expects: its flows, the names whose flows these are all of, and losses of zero."""

    wants: tuple[Want, ...]
    comms: frozenset[str]
    events: tuple[dict[str, Any], ...] = ()


def expect(
    *wants: Want, silent: tuple[str, ...] = (), events: tuple[dict[str, Any], ...] = ()
) -> Expectation:
    """Expect exactly these flows of these names, and none of the names in `silent`."""
    return Expectation(wants, frozenset({want.comm for want in wants} | set(silent)), events)


Scenario = Callable[[Lab], Expectation]
ROWS: dict[str, Scenario] = {}


def row(name: str) -> Callable[[Scenario], Scenario]:
    """Enter a function into the table."""

    def enter(function: Scenario) -> Scenario:
        if name in ROWS:
            raise ValueError(f"two rows {name}")
        ROWS[name] = function
        return function

    return enter


def truth(lab: Lab, want: Want) -> Wire:
    """Return what the ends of the wire counted for one expectation."""
    if want.exact:
        return want.exact
    key = want.wire or (want.proto, want.remote, want.port)
    found = wires(lab.peer_ns, want.client or lab.client, [key])[0]
    return found.less(want.before)


def complaints(lab: Lab, expected: Expectation, flows: list[dict[str, Any]], *, loopback: bool) -> list[str]:
    """Compare a report with the truth; an empty list is agreement."""
    wants = [want for want in expected.wants if loopback or not want.on_loopback]
    groups: dict[tuple[str, Key], list[dict[str, Any]]] = defaultdict(list)
    for flow in flows:
        key = (flow["proto"], flow["remote_addr"], flow["remote_port"], flow["direction"])
        groups[flow["comm"], key].append(flow)
    found = [f"unexpected: {describe(group)}" for key, group in groups.items() if not _is_wanted(key, wants)]
    for want in wants:
        group = groups.get((want.comm, want.key), [])
        if not group:
            found.append(f"absent: {want.comm} {want.key}")
            continue
        found += _differences(want, group, truth(lab, want))
    return found


def _is_wanted(key: tuple[str, Key], wants: list[Want]) -> bool:
    return key in {(want.comm, want.key) for want in wants}


def describe(group: list[dict[str, Any]]) -> str:
    """Give a group of flows in one line."""
    flow = group[0]
    where = f"{flow['proto']} {flow['remote_addr']} {flow['remote_port']} {flow['direction']}"
    counts = " ".join(f"{key}={_total(group, key)}" for key in COUNTS)
    return f"{flow['comm']} pid={flow['pid']} {where} {counts} ({len(group)} rows)"


COUNTS = ("attempts", "established", "denied", "bytes_out", "bytes_in", "packets_out", "packets_in")


def _total(group: list[dict[str, Any]], key: str) -> int:
    return sum(flow[key] for flow in group)


def _differences(want: Want, group: list[dict[str, Any]], wire: Wire) -> list[str]:
    where = f"{want.comm} {want.proto} {want.remote} {want.port} {want.direction}"
    established = want.established if want.established is not None else int(want.proto == "tcp")
    checks = [("attempts", want.attempts), ("established", established), ("denied", 0)]
    found = [
        f"{where}: {key} is {_total(group, key)}, should be {value}"
        for key, value in checks
        if _total(group, key) != value
    ]
    found += _bytes(want, group, wire, where)
    pids = {flow["pid"] for flow in group}
    if want.pids is not None and pids != want.pids:
        found.append(f"{where}: pids are {_few(pids)}, should be {_few(want.pids)}")
    rows = want.rows or len(want.pids or [0])
    if len(group) != rows:
        found.append(f"{where}: {len(group)} rows, should be {rows}")
    for key, value in {"scope": want.scope, **want.more}.items():
        odd = {str(flow[key]) for flow in group if flow[key] != value}
        if odd:
            found.append(f"{where}: {key} is {_few(odd)}, should be {value!r}")
    return found


def _few(values: Iterable[Any]) -> str:
    some = sorted(values)
    return f"{some[:5]}{'...' if len(some) > 5 else ''}"


def _bytes(want: Want, group: list[dict[str, Any]], wire: Wire, where: str) -> list[str]:
    got = Wire(*(_total(group, key) for key in Wire._fields))
    if want.offloaded:
        return [] if segmented(got, wire) else [f"{where}: {got}, the wire had super-packets {wire}"]
    missing = wire.less(got)
    out = explained(missing.bytes_out, missing.packets_out, want.unseen_out)
    into = explained(missing.bytes_in, missing.packets_in, want.unseen_in)
    return [] if out and into else [f"{where}: {got}, the wire had {wire}: missing {missing}"]


def segmented(got: Wire, wire: Wire) -> bool:
    """Say whether a report has the payload of the wire's IPv6 super-packets, and a header for each segment.

    A BIG TCP super-packet has 8 bytes of jumbo header (RFC 2675) that no segment has.
    """
    payload = got.bytes_out - got.packets_out * TIMESTAMPED6
    jumbos, left = divmod(wire.bytes_out - wire.packets_out * TIMESTAMPED6 - payload, 8)
    enough = payload // (1500 - TIMESTAMPED6)
    return (
        left == 0
        and 0 <= jumbos <= wire.packets_out
        and enough <= got.packets_out <= enough + wire.packets_out
    )


def explained(size: int, packets: int, unseen: Unseen) -> bool:
    """Say whether bytes and packets that are missing are just such as no hook sees."""
    if packets < 0 or size < 0:
        return False
    if not unseen:
        return (size, packets) == (0, 0)
    (each, most), *rest = unseen
    if not rest:
        return packets <= most and size == packets * each
    if len(rest) == 1:  # as many of the other as make up the rest
        (other, others), *_ = rest
        count, left = divmod(size - packets * other, each - other)
        return left == 0 and 0 <= count <= most and 0 <= packets - count <= others
    return any(explained(size - n * each, packets - n, tuple(rest)) for n in range(min(most, packets) + 1))


def late_in(most: int) -> Unseen:
    """Permit what comes for a connection that is only a TIME_WAIT entry any more.

    The peer's FIN, its retransmissions, and acknowledgements of what reached it twice, with one or two blocks
    of SACK (RFC 2883): a host without time to spare sends segments again too early.
    """
    return ((TIMESTAMPED4, most), (TIMESTAMPED4 + 12, most), (TIMESTAMPED4 + 20, most))


def late_out(most: int) -> Unseen:
    """Permit the acknowledgements that a TIME_WAIT entry sends."""
    return ((TIMESTAMPED4, most),)
