"""Flows folded into a bounded number of series that never go backwards.

A flow keeps the series that it was given first for as long as it is in the kernel's table. Up to
`max_destinations` destinations of a target get a label of their own, every further one is `other`; so with
process names. A label becomes free again when no flow in the table and no settled sum uses it. A flow that
leaves the table leaves its counts in its series (`settle`). Hence a series that is exported only grows: one
that ends and comes back starts at zero, which Prometheus takes for the counter reset that it is.

A destination goes by its name where one is known when the flow is first folded, else by its address for good:
what is known by then is all that was said before, since samples are read after the flows. A flow never moves
to another series, because it would take counts out of one that only grows.

A series without traffic for a day is no longer exported; its counts are kept as long as its flows are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tracer.model.records import address, protocol
from tracer.model.scope import Scope, scope
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tracer.model.process import ProcessInfo, ProcessLookup
    from tracer.model.records import Decoder
    from tracer.model.rows import FlowRow

OTHER: Final = "other"
PROCESSES_MAX: Final = 200  # process names with a label of their own, for each target
SERIES_MAX: Final = 10_000  # beyond it, flows fold by target, scope, protocol and direction alone
IDLE_NS: Final = 24 * 3600 * 1_000_000_000
LABEL_MAX: Final = 128  # characters

_CALLS: Final = 5  # attempts to denied_packets: the counters of calls, in their order
_TRAFFIC: Final = 5  # bytes_out to payload_out
Sums = list[int]
FlowKey = tuple[int, bytes, int, int, int]


class Names(Protocol):
    """Who knows names."""

    def refresh(self) -> None: ...  # noqa: D102 - take in what is known as of now
    def label(self, row: FlowRow, who: ProcessInfo | None) -> str | None: ...  # noqa: D102


class Labels(NamedTuple):
    """What tells a series from others; empty: not in a target, or no such label wanted."""

    target: str
    process: str
    destination: str
    scope: str
    proto: str
    direction: str
    pid: str = ""


class Series:
    """Counters under one set of labels: `settled` ones of flows that are gone, and those `now`.

    Calls are five counters; traffic five for each phase that had any.
    """

    __slots__ = ("allowed", "labels", "last_ns", "now", "settled", "settled_traffic", "traffic", "used")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.settled: Sums = [0] * _CALLS
        self.settled_traffic: dict[int, Sums] = {}
        self.now: Sums = [0] * _CALLS
        self.traffic: dict[int, Sums] = {}
        self.last_ns = 0
        self.allowed = 0
        self.used = False

    def begin(self) -> None:
        """Start a new sum from what is settled."""
        self.now = self.settled.copy()
        self.traffic = {phase: sums.copy() for phase, sums in self.settled_traffic.items()}
        self.used = False

    def settle(self, row: FlowRow) -> None:
        """Add the counts of a flow for good."""
        self.settled = [a + b for a, b in zip(self.settled, row[6:11], strict=True)]
        before = self.settled_traffic.get(row.phase) or [0] * _TRAFFIC
        self.settled_traffic[row.phase] = [a + b for a, b in zip(before, row[11:16], strict=True)]
        self.last_ns = max(self.last_ns, row.last_ns)

    def finish(self) -> None:
        """Work out the allowed attempts; a denial counted a moment after its attempt takes none back."""
        attempts, _, denied, would_deny, _ = self.now
        self.allowed = max(self.allowed, attempts - denied - would_deny)


class Book:
    """All series; give it every flow of the table at each scrape, and each flow that leaves it."""

    def __init__(
        self,
        registry: ProcessLookup,
        decoder: Decoder,
        max_destinations: int,
        names: Names | None = None,
        *,
        pid: bool = False,
    ) -> None:
        self._registry = registry
        self._decoder = decoder
        self._names = names
        self.max_destinations = max_destinations
        self.pid = pid
        self._series: dict[Labels, Series] = {}
        self._given: dict[FlowKey, Series] = {}
        self._destinations: dict[str, set[str]] = {}
        self._processes: dict[str, set[str]] = {}
        self._left = False

    def settle(self, row: FlowRow) -> None:
        """Keep the counts of a flow that leaves the kernel's table."""
        via = row.flags & self._decoder.via_loopback
        key = (row.process, row.remote, row.proto, row.direction, via)
        series = self._given.get(key) or self._give(key, row)
        series.settle(row)
        self._left = True

    def fold(self, rows: Sequence[FlowRow], now_ns: int) -> list[Series]:
        """Sum the table's flows up; returns the series to export. `now_ns` is CLOCK_BOOTTIME."""
        if self._names is not None:
            self._names.refresh()
        for series in self._series.values():
            series.begin()
        given, via = self._given, self._decoder.via_loopback
        for row in rows:
            process, remote, _, proto, direction, phase, a, b, c, d, e, f, g, h, i, j, _, last, flags = row
            key = (process, remote, proto, direction, flags & via)
            series = given.get(key) or self._give(key, row)
            now = series.now
            now[0] += a
            now[1] += b
            now[2] += c
            now[3] += d
            now[4] += e
            moved = series.traffic.get(phase)
            if moved is None:
                moved = series.traffic[phase] = [0] * _TRAFFIC
            moved[0] += f
            moved[1] += g
            moved[2] += h
            moved[3] += i
            moved[4] += j
            if last > series.last_ns:  # noqa: PLR1730 - a call to max() for each flow costs a tenth of a scrape
                series.last_ns = last
            series.used = True
        if self._left:
            self._forget(rows, now_ns)
        fresh = [series for series in self._series.values() if series.last_ns > now_ns - IDLE_NS]
        for series in fresh:
            series.finish()
        return fresh

    def _give(self, key: FlowKey, row: FlowRow) -> Series:
        labels = self._labels(key, row)
        if labels not in self._series and len(self._series) >= SERIES_MAX:
            labels = labels._replace(process=OTHER, destination=OTHER, pid="")
        series = self._series.setdefault(labels, Series(labels))
        self._given[key] = series
        return series

    def _labels(self, key: FlowKey, row: FlowRow) -> Labels:
        process, remote, proto, direction, via = key
        who = self._registry.get(process)
        target = escape(who.target, LABEL_MAX) if who and who.target else ""
        comm = (who.comm if who else None) or "unknown"
        own_process = _take(self._processes.setdefault(target, set()), comm, PROCESSES_MAX)
        destinations = self._destinations.setdefault(target, set())
        name = self._names.label(row, who) if self._names is not None else None
        summed = self._decoder.summed(process, remote)
        destination = escape(name, LABEL_MAX) if name else OTHER if summed else address(remote)
        return Labels(
            target=target,
            process=own_process,
            destination=_take(destinations, destination, self.max_destinations),
            scope=summed or scope(remote, via_loopback=bool(via)),
            proto=protocol(proto),
            direction=self._decoder.direction(direction),
            pid=str(who.pid) if self.pid and who and own_process != OTHER else "",
        )

    def _forget(self, rows: Sequence[FlowRow], now_ns: int) -> None:
        """After flows left the table, free what nothing uses any more."""
        self._left = False
        via = self._decoder.via_loopback
        live = {(row.process, row.remote, row.proto, row.direction, row.flags & via) for row in rows}
        self._given = {key: series for key, series in self._given.items() if key in live}
        old = now_ns - IDLE_NS
        kept = {name: one for name, one in self._series.items() if one.used or one.last_ns > old}
        self._series = kept
        self._destinations, self._processes = {}, {}
        for labels in kept:
            self._destinations.setdefault(labels.target, set()).add(labels.destination)
            self._processes.setdefault(labels.target, set()).add(labels.process)


def _take(taken: set[str], name: str, most: int) -> str:
    """Give `name` a label of its own while there is room; `other` takes no room."""
    if name not in taken:
        if len(taken) - (OTHER in taken) >= most:
            return OTHER
        taken.add(name)
    return name


def overflow(rows: Iterable[FlowRow], decoder: Decoder) -> list[Series]:
    """Give what found no room in the kernel's table: of nobody, to nowhere known, but not lost."""
    found = []
    for row in rows:
        labels = Labels("", "unknown", OTHER, Scope.UNKNOWN, OTHER, decoder.direction(row.direction))
        series = Series(labels)
        series.now, series.traffic = list(row[6:11]), {row.phase: list(row[11:16])}
        series.finish()
        if any(row[6:16]):
            found.append(series)
    return found
