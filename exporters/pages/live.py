"""The page for people: its files, and the facts it shows as one JSON document.

What left the machine is told apart from what came in: a busy API has thousands of connections, and none of
them may push the one that phoned home out of the list. Sums are over all flows, lists are bounded. Nothing
is read while nobody looks, but for a look twice a minute at what targets have sent: the timeline's past.
"""

from __future__ import annotations

import heapq
import platform
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from exporters.http.server import Asset
from tracer import __version__
from tracer.model.records import denials, timestamp
from tracer.model.scope import Scope
from tracer.model.status import Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from exporters.prometheus.collector import HookState
    from tracer.model.destination import Named
    from tracer.model.process import ProcessInfo, ProcessLookup
    from tracer.model.records import Decoder, Json
    from tracer.model.rows import FlowRow, Settled
    from tracer.model.status import MapSize, TargetState

    Row = tuple[FlowRow, ProcessInfo | None]
    Sum = tuple[Settled, FlowRow]

NEWEST: Final = 200  # flows that are listed
OTHERS: Final = 50  # of these, at least so many for processes outside of targets, if there are any
FRESH_S: Final = 1.0  # however many look, the kernel is read once in so long
DAY_FRESH_S: Final = 20.0  # and so is the history
STEP_S: Final = 4.0  # the shortest step of the timeline
SPAN_S: Final = 15 * 60.0  # the timeline's length
_STEPS_MAX: Final = int(SPAN_S / STEP_S)
_PLACES_MAX: Final = 10_000  # of one target, counted one by one
_NEAR: Final = frozenset({Scope.LOOPBACK, Scope.HOST})
_DNS: Final = 53
_FOLDER: Final = Path(__file__).with_name("static")
_HTML: Final = "text/html; charset=utf-8"
_SCRIPT: Final = "text/javascript; charset=utf-8"
_SCRIPTS: Final = ("page.js", "parts.js", "day.js", "switch.js")

Phases = dict[str, list[int]]  # by phase: bytes that left, bytes that came for them, all other bytes


class Source(Protocol):
    """What the page reads: all that was counted."""

    since_ns: int

    @property
    def registry(self) -> ProcessLookup: ...  # noqa: D102
    @property
    def decoder(self) -> Decoder: ...  # noqa: D102
    @property
    def named(self) -> Callable[[FlowRow, ProcessInfo | None], Named]: ...  # noqa: D102
    @property
    def closed(self) -> bool: ...  # noqa: D102
    @property
    def lock(self) -> AbstractContextManager[object]: ...  # noqa: D102
    def rows(self) -> list[FlowRow]: ...  # noqa: D102
    def settled(self) -> list[Sum]: ...  # noqa: D102
    def losses(self) -> dict[str, int]: ...  # noqa: D102
    def sizes(self) -> Sequence[MapSize]: ...  # noqa: D102
    def objects(self, rows: list[Row], settled: list[Sum]) -> Iterator[Json]: ...  # noqa: D102


@dataclass(frozen=True)
class Ask:
    """What the page asks beside the counts, each time somebody looks."""

    states: Callable[[], Sequence[TargetState]]  # of each target, asked of the kernel
    terms: Callable[[], Mapping[str, Terms]]  # by target
    refused: Callable[[], Sequence[Json]]  # names, with the target that wanted them
    hooks: Callable[[], Sequence[HookState]]
    ill: Callable[[], list[str]]  # what is wrong now, a line each
    switch: bool = False  # whether the page can be given the right to switch
    day: Callable[[], Json] = dict  # the last 24 hours of each target, as the history has them


class Sums:
    """What one target did, over all of its flows; outside of targets: all others together."""

    def __init__(self) -> None:
        self.scopes: dict[str, list[int]] = {}
        self.places: dict[str, set[str]] = {}
        self.served = [0, 0, 0]  # connections that it took, bytes it answered, bytes that came
        self.asked = [0, 0]  # loopback resolvers: bytes out, packets out
        self.phases: Phases = {}
        self.last_ns = 0

    def serve(self, row: FlowRow) -> None:
        """Add a connection that it took."""
        more = (row.established, row.bytes_out, row.bytes_in)
        self.served = [old + new for old, new in zip(self.served, more, strict=True)]

    def leave(self, row: FlowRow, where: str) -> None:
        """Add a flow that left, or tried to."""
        more = (row.attempts, denials(row), row.would_deny, row.bytes_out, row.bytes_in, row.payload_out)
        old = self.scopes.get(where, [0] * len(more))
        self.scopes[where] = [before + new for before, new in zip(old, more, strict=True)]

    def json(self, boot_ns: int) -> Json:
        """Give it for the document; times are of what left."""
        keys = ("attempts", "denied", "would_deny", "bytes_out", "bytes_in", "payload_out")
        return {
            "left": {
                where: dict(zip(keys, sums, strict=True)) | {"places": len(self.places.get(where, ()))}
                for where, sums in self.scopes.items()
            },
            "served": dict(zip(("connections", "bytes_out", "bytes_in"), self.served, strict=True)),
            "local_dns": dict(zip(("bytes_out", "packets_out"), self.asked, strict=True)),
            "last_left": timestamp(boot_ns + self.last_ns) if self.last_ns else None,
        }


class Step(NamedTuple):
    """The timeline's steps: what moved between two looks, by target and phase."""

    start_ms: int
    end_ms: int
    moved: dict[str, Phases]
    phases: dict[str, str]  # of each target, at the step's end


class Look(NamedTuple):
    """One reading of all flows."""

    sums: dict[str | None, Sums]
    left: list[Row]
    settled: list[Sum]


class Page:
    """Makes the document; `sample` keeps the timeline while nobody looks."""

    def __init__(self, source: Source, ask: Ask, boot_ns: Callable[[], int]) -> None:
        """`boot_ns` gives the wall clock's time when the boot clock read zero."""
        self._source = source
        self._ask = ask
        self._boot_ns = boot_ns
        self._lock = threading.Lock()
        self._fresh: tuple[float, bytes] = (0.0, b"")
        self._day: tuple[float, bytes] = (0.0, b"")
        self._day_lock = threading.Lock()
        self._steps: deque[Step] = deque(maxlen=_STEPS_MAX)
        self._before: tuple[float, int, dict[str, Phases]] | None = None

    def assets(self) -> dict[str, Asset]:
        """Give what the server answers by path; files are read when they are asked for."""
        return {
            "/": Asset(_HTML, _file("index.html")),
            "/login": Asset(_HTML, _file("login.html"), public=True),
            "/login-again": Asset(
                _HTML, lambda: _file("login.html")().replace(b"<p hidden", b"<p"), public=True
            ),
            "/page.css": Asset("text/css; charset=utf-8", _file("page.css"), public=True),
            **{f"/{name}": Asset(_SCRIPT, _file(name), public=True) for name in _SCRIPTS},
            "/icon.svg": Asset("image/svg+xml", _file("icon.svg"), public=True),
            "/data.json": Asset("application/json", self.json),
            "/day.json": Asset("application/json", self.day),
        }

    def json(self) -> bytes:
        """Give the document, at most FRESH_S old."""
        with self._lock:
            made, text = self._fresh
            if not text or time.monotonic() - made > FRESH_S:
                with self._source.lock:
                    text = msgspec.json.encode(self.document())
                self._fresh = (time.monotonic(), text)
            return text

    def day(self) -> bytes:
        """Return the last 24 hours, at most DAY_FRESH_S old."""
        with self._day_lock:
            until, text = self._day
            if time.monotonic() >= until:
                found = self._ask.day()
                text = msgspec.json.encode(found)
                self._day = (time.monotonic() + (FRESH_S if "error" in found else DAY_FRESH_S), text)
            return text

    def sample(self) -> None:
        """Note what targets have sent, for the timeline; nothing to do where there is no target."""
        with self._lock, self._source.lock:
            if not self._source.closed and (states := self._ask.states()):
                self._note(self._look(), states)

    def document(self) -> Json:
        """Read the kernel once and say all that the page shows; `closing` alone once the source is closed."""
        if self._source.closed:
            return {"closing": True}
        look, states = self._look(), self._ask.states()
        self._note(look, states)
        head = {
            "now": timestamp(time.time_ns()),
            "since": timestamp(self._source.since_ns),
            "version": __version__,
            "kernel": platform.release(),
            "host": platform.node(),
            "ill": self._ask.ill(),
            "losses": self._source.losses(),
            "hooks": [{"hook": one.hook, "attached": one.attached} for one in self._ask.hooks()],
            "maps": [size._asdict() for size in self._source.sizes()],
        }
        return head | self._told(look, states)

    def _told(self, look: Look, states: Sequence[TargetState]) -> Json:
        boot_ns = self._boot_ns()
        rows, settled = newest(look.left, look.settled)
        terms = self._ask.terms()
        return {
            "switch": self._ask.switch,
            "refused": self._ask.refused(),
            "targets": [
                {
                    **one._asdict(),
                    **terms.get(one.target, Terms())._asdict(),
                    "until": timestamp(boot_ns + one.until) if one.until else None,
                    **look.sums.get(one.target, Sums()).json(boot_ns),
                }
                for one in states
            ],
            "others": look.sums.get(None, Sums()).json(boot_ns),
            "count": len(look.left) + len(look.settled),
            "flows": list(self._source.objects(rows, settled)),
            "timeline": [step._asdict() for step in self._steps],
        }

    def _look(self) -> Look:
        source, sums = self._source, dict[str | None, Sums]()
        rows: list[Row] = []
        inward = source.decoder.inward
        for row in source.rows():
            who = source.registry.get(row.process)
            where = source.decoder.place(row)
            if self._add(sums, row, who, where, inward):
                rows.append((row, who))
        settled = [
            (key, row) for key, row in source.settled() if self._add(sums, row, key.who, key.scope, inward)
        ]
        return Look(sums, rows, settled)

    def _add(
        self, sums: dict[str | None, Sums], row: FlowRow, who: ProcessInfo | None, where: str, inward: int
    ) -> bool:
        """Add a flow to the sums of its targets; says whether it is one that left, or tried to."""
        names = (who.targets or (who.target,)) if who else (None,)
        added = [self._add_to(sums.setdefault(name, Sums()), row, who, where, inward) for name in names]
        return added[0]

    def _add_to(self, one: Sums, row: FlowRow, who: ProcessInfo | None, where: str, inward: int) -> bool:
        outward, near = row.direction != inward, where in _NEAR
        phase = one.phases.setdefault(self._source.decoder.phase(row.phase), [0, 0, 0])
        if outward and not near:
            phase[0] += row.bytes_out
            phase[1] += row.bytes_in
        else:
            phase[2] += row.bytes_out + row.bytes_in
        if not outward:
            one.serve(row)
        elif near and row.remote_port == _DNS:
            one.asked = [one.asked[0] + row.bytes_out, one.asked[1] + row.packets_out]
        if not outward or (near and not _notable(row)):
            return False
        one.leave(row, where)
        if not near and row.bytes_out:
            self._place(one, row, who, where)
        return True

    def _place(self, one: Sums, row: FlowRow, who: ProcessInfo | None, where: str) -> None:
        one.last_ns = max(one.last_ns, row.last_ns)
        places = one.places.setdefault(where, set())
        if len(places) < _PLACES_MAX:
            best = self._source.named(row, who).best
            places.add(best.name if best else row.remote.hex())

    def _note(self, look: Look, states: Sequence[TargetState]) -> None:
        """Keep what moved since the last look, unless that was a moment ago."""
        now = time.monotonic()
        if self._before and now - self._before[0] < STEP_S:
            return
        wall_ms = time.time_ns() // 1_000_000
        totals = {name: one.phases for name, one in look.sums.items() if name is not None}
        if self._before:
            moved = {name: _moved(phases, self._before[2].get(name, {})) for name, phases in totals.items()}
            kept = {name: phases for name, phases in moved.items() if phases}
            phases = {one.target: one.phase for one in states}
            self._steps.append(Step(self._before[1], wall_ms, kept, phases))
        while self._steps and self._steps[0].end_ms < wall_ms - SPAN_S * 1000:
            self._steps.popleft()
        self._before = (now, wall_ms, totals)


def newest(rows: list[Row], settled: list[Sum]) -> tuple[list[Row], list[Sum]]:
    """Choose the flows that are listed: the newest of targets first, and room for the others' newest."""
    watched = [pair for pair in rows if pair[1] and pair[1].target is not None]
    others = [pair for pair in rows if not (pair[1] and pair[1].target is not None)]
    chosen = heapq.nlargest(NEWEST - min(len(others), OTHERS), watched, key=lambda pair: pair[0].last_ns)
    chosen += heapq.nlargest(NEWEST - len(chosen), others, key=lambda pair: pair[0].last_ns)
    return chosen, heapq.nlargest(NEWEST - len(chosen), settled, key=lambda pair: pair[1].last_ns)


def _notable(row: FlowRow) -> bool:
    """Say whether a flow on this machine is of interest: names carry data out, denials are denials."""
    return row.remote_port == _DNS or bool(denials(row)) or bool(row.would_deny)


def _moved(now: Phases, before: Phases) -> Phases:
    """Give what was added. A flow that changes its target takes its past along: that is no traffic."""
    found = {}
    for phase, values in now.items():
        added = [
            max(value - then, 0) for value, then in zip(values, before.get(phase, (0, 0, 0)), strict=True)
        ]
        if any(added):
            found[phase] = added
    return found


def _file(name: str) -> Callable[[], bytes]:
    return (_FOLDER / name).read_bytes
