"""Sees all that one target does in a window: flows, events, requests, and how they went in time.

Programs of its own, never the daemon's: their numbers begin at zero with the window, their ring has no other
reader, and what they are is known by the hash of what was loaded. The daemon goes on beside, undisturbed.
What an enforcing instance denies is asked of that instance (`Enforcing`).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from tracer.bpf.engine import Engine
from tracer.errors import ObjectError, TattleError
from tracer.model.destination import Unexplained
from tracer.model.jsonlines import decode
from tracer.model.records import timestamp
from tracer.model.text import escape
from tracer.proof import evidence
from tracer.session.session import Core, own_options, readers
from tracer.targets.finder import BOOK, Finder, TargetBook
from tracer.targets.membership import chooser

if TYPE_CHECKING:
    from types import TracebackType

Json = dict[str, Any]

RING_BYTES: Final = 8 << 20  # a burst of 70,000 events between two drains
SAMPLE_S: Final = 0.25
_PAUSES: Final = 20  # what took long to read is left alone so many times as long
_SAMPLES_MAX: Final = 400
_MARKS_MAX: Final = 1000
_REQUESTS_MAX: Final = 5000
_SETTLE_S: Final = 2.0  # for what closed sockets still send: tcp(7), it leaves after the process is gone
_SETTLE_STEP_S: Final = 0.1
_MARKED: Final = (
    "ts",
    "event",
    "pid",
    "comm",
    "remote_addr",
    "remote_port",
    "proto",
    "scope",
    "phase",
    "name",
    "names",
)
_EVENTS: Final = frozenset({"connect", "send", "deny", "dns"})


class Sample(NamedTuple):
    """Bytes that went out, that came in on the same flows, and that were data which went, up to a moment."""

    ts: str
    bytes_out: int
    bytes_in: int
    payload_out: int


class Witness:
    """An engine of its own and what it has seen; a context manager."""

    def __init__(self, instance: str, selector: str, engine: str | None) -> None:
        """Attach; from here on every packet of the target counts."""
        self.core = Core(own_options(instance, engine, ring_bytes=RING_BYTES), None, early=[selector])
        try:
            self.core.retarget([selector])
        except BaseException:
            self.core.close()
            raise
        self.engine = self.core.engine
        self.cgroups = [path for target in self.core.targeting.targets for path in target.cgroups]
        self._wants = chooser({selector}, [escape(path) for path in self.cgroups])
        self._recognizing = threading.Lock()  # a program that listens is waited for in another thread
        self.samples: list[Sample] = []
        self.marks: list[Json] = []
        self.more_marks = 0
        self.requests: list[Json] = []
        self.more_requests = 0
        self._open: dict[tuple[Any, ...], list[Json]] = {}
        self._next = 0.0
        self._every = SAMPLE_S

    def ours(self, process: int) -> bool:
        """Tell whether a process of the kernel half's is the target's."""
        return self._wants(self.core.accounts.registry.get(process))

    def flows(self) -> list[Json]:
        """Give the target's flows, as of now."""
        _, rows = self.core.accounts.view(self._wants)
        return list(rows)

    def strayed(self, family: set[int]) -> list[Json]:
        """Give what left for a process of `family`, or a child of one, that is not in the target."""
        _, rows = self.core.accounts.view(lambda who: not self._wants(who))
        return [flow for flow in rows if evidence.left(flow) and {flow["pid"], flow["ppid"]} & family]

    def recognize(self) -> None:
        """Find out which runtime the target is, where it has just been started: its phases are told then."""
        with self._recognizing:
            self.core.recognize()

    def begin(self) -> str:
        """Begin the window: what was before is no longer in the ring; returns the time."""
        for _ in self.core.events(wanted=False):
            pass
        self._sample()
        return self.samples[0].ts

    def drain(self) -> None:
        """Take the events that wait, and look at the counters every now and then."""
        events = [
            decode(line.text)
            for batch in self.core.events(wanted=True)
            for line in batch
            if self._wants(line.who)
        ]
        requests = [event for event in events if event["event"] == "request"]
        if requests or time.monotonic() >= self._next:
            self._sample()
        for event in events:
            self._mark(event)
        for event in requests:
            self._request(event)

    def settle(self, wait: Any) -> None:  # noqa: ANN401 - a function of seconds, its result is of no interest
        """Wait until closed sockets have sent what they had, at most some seconds."""
        until = time.monotonic() + _SETTLE_S
        before = None
        while time.monotonic() < until:
            self.drain()
            self._sample()
            if self.samples[-1][1:] == before:
                return
            before = self.samples[-1][1:]
            wait(_SETTLE_STEP_S)

    def _sample(self) -> None:
        begun = time.monotonic()
        gone = [flow for flow in self.flows() if evidence.goes_out(flow)]
        sums = (sum(flow[name] for flow in gone) for name in Sample._fields[1:])
        self.samples.append(Sample(timestamp(time.time_ns()), *sums))
        if len(self.samples) > _SAMPLES_MAX:
            del self.samples[1:-1:2]
            self._every *= 2
        now = time.monotonic()
        self._next = now + max(self._every, _PAUSES * (now - begun))

    def _mark(self, event: Json) -> None:
        if event["event"] not in _EVENTS:
            return
        if len(self.marks) < _MARKS_MAX:
            self.marks.append({name: event[name] for name in _MARKED})
        else:
            self.more_marks += 1

    def _request(self, event: Json) -> None:
        """Pair the two ends of a request: of several on one connection, the oldest ends first."""
        key = tuple(event[name] for name in ("pid", "remote_addr", "remote_port"))
        waiting = self._open.setdefault(key, [])
        if event["duration_ms"] is None:
            waiting.append(self._begun(event))
            return
        one = waiting.pop(0) if waiting else self._begun(event) | {"start": self.samples[0].ts}
        one["end"] = event["ts"]
        _take_off(one, self.samples[-1])
        if len(self.requests) < _REQUESTS_MAX:
            self.requests.append(one)
        else:
            self.more_requests += 1

    def _begun(self, event: Json) -> Json:
        """Note a request with what had left before it: of the look before the one that its event caused."""
        before = self.samples[-2] if len(self.samples) > 1 else self.samples[-1]
        return {
            "start": event["ts"],
            "end": None,
            **{name: event[name] for name in ("phase", "pid", "comm", "remote_addr", "remote_port")},
            "path": event.get("path"),
            "bytes_out_at_most": before.bytes_out,
            "payload_out_at_most": before.payload_out,
        }

    def finish(self) -> None:
        """Close what was still going on when the window ended."""
        for one in (one for waiting in self._open.values() for one in waiting):
            _take_off(one, self.samples[-1])
            self.requests.append(one)
        self.requests.sort(key=lambda one: one["start"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.core.close()


def _take_off(request: Json, last: Sample) -> None:
    """Turn what had left before a request into what left during it."""
    request["bytes_out_at_most"] = last.bytes_out - request["bytes_out_at_most"]
    request["payload_out_at_most"] = last.payload_out - request["payload_out_at_most"]


class Enforcing:
    """What an instance that has a policy in force denies the target, from its own tables in the kernel."""

    def __init__(self, instance: str, selector: str, cgroups: list[str]) -> None:
        """Look for the first time; `instance` is None afterwards where it enforces nothing."""
        self.instance: str | None = None
        self.note: str | None = None
        self._engine: Engine | None = None
        wants = chooser({selector}, [escape(path) for path in cgroups])
        try:
            engine = Engine.attach_readonly(instance)
        except ObjectError as error:
            self.note = (
                f"instance {instance} is of another version: its denials are not in here ({error.message})"
            )
            return
        except TattleError:
            return
        if not engine.maps.enforcing():
            engine.close()
            return
        self._engine, self.instance, self._wants = engine, instance, wants
        book = TargetBook(engine.paths.state / BOOK)
        self._accounts, _ = readers(engine, book, Finder(engine.root), Unexplained())
        self._before = self._flows()

    def _flows(self) -> list[Json]:
        _, rows = self._accounts.view(self._wants)
        return list(rows)

    def denied(self) -> list[Json]:
        """Give the flows that were denied since the first look, with what they gained, and let go."""
        if self._engine is None:
            return []
        with self._engine:
            return evidence.since(self._before, self._flows())
