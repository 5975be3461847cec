"""From samples of packets to names, and to events that tell of lookups and requests.

Any thread may have samples read: a scrape needs the names as of now. What there is to tell waits for the
loop, which asks for it.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.host.hosts_file import HostsFile
from tracer.model.destination import NAMELESS, Named, Peer, owner_of
from tracer.model.records import address
from tracer.model.scope import ASKER, QUESTIONS, packed
from tracer.model.text import escape
from tracer.names import dns, tls
from tracer.names.cache import NameBook
from tracer.names.queries import Lookups, Question, question
from tracer.names.quic import Initials
from tracer.names.reassembly import Streams
from tracer.names.refusals import Refusals, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.bpf.samples import Sample, Samples
    from tracer.host.clock import BootClock
    from tracer.model.process import ProcessInfo
    from tracer.model.records import Decoder, Json
    from tracer.model.rows import EventTuple, FlowRow, SampleTuple
    from tracer.targets.processes import Registry

TELL_MAX: Final = 8192  # events that wait for the loop
REQUESTS_MAX: Final = 1024  # connections whose request is not over
PIPELINED_MAX: Final = 64  # requests of one connection
PATH_MAX: Final = 256  # characters
_ANSWERS_SHOWN: Final = 32
_GAP_MAX: Final = 8192  # bytes of DNS over TCP that wait for a segment which may be lost
_UDP: Final = 17
_ASKER: Final = packed(ASKER)
_REQUEST: Final = re.compile(rb"[A-Z]{1,16} ([^ ?#\r\n]{1,2048})")


class Told(NamedTuple):
    """An event, and whose it is."""

    who: ProcessInfo | None
    event: Json


class Namer:
    """Reads samples, keeps the names, and answers how a destination is called."""

    def __init__(
        self,
        samples: Samples,
        registry: Registry,
        decoder: Decoder,
        clock: BootClock,
        lost: Callable[[str, int], None],
    ) -> None:
        """`lost` counts what was lost for want of room, by reason."""
        self.unread: Counter[str] = Counter()  # packets that gave no name, by reason
        self.samples = samples
        self._registry = registry
        self._decoder = decoder
        self._clock = clock
        self._lost = lost
        self._lock = threading.Lock()
        self._book = NameBook(lambda count: lost("names_full", count), HostsFile())
        self._lookups = Lookups(lambda: lost("lookups_full", 1))
        self._answers: Streams[tuple[int, int]] = Streams(lambda _: lost("streams_full", 1))
        self._hellos: Streams[int] = Streams(lambda _: lost("hellos_full", 1))
        self._initials = Initials(lambda: lost("hellos_full", 1))
        self._requests: OrderedDict[int, deque[str | None]] = OrderedDict()
        self._waiting: deque[Told] = deque()
        self._inward = decoder.inward
        self.refusals = Refusals()
        self.on_refusal: Callable[[Refused], None] | None = None
        self.on_request_end: Callable[[ProcessInfo], None] | None = None  # of who has answered
        self.on_name: Callable[[SampleTuple, str], None] | None = None  # what a client says
        self._closed = False

    def drain(self, *, wanted: bool) -> list[Told]:
        """Read all samples; returns what there is to tell, nothing where that is not `wanted`."""
        with self._lock:
            self._refresh()
            told = list(self._waiting) if wanted else []
            self._waiting.clear()
        return told

    def refresh(self) -> None:
        """Read all samples; what there is to tell waits."""
        with self._lock:
            self._refresh()

    def event(self, row: EventTuple, who: ProcessInfo | None) -> Named:
        """Name the remote end of an event as its connection knows it."""
        return self._of(row, who, row.time_ns, socket=row.socket)

    def flow(self, row: FlowRow, who: ProcessInfo | None) -> Named:
        """Name the remote end of a flow."""
        return self._of(row, who, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def last(self, row: FlowRow, who: ProcessInfo | None) -> Named:
        """Name the remote end of a flow by what was known when it was last seen."""
        return self._of(row, who, row.last_ns)

    def label(self, row: FlowRow, who: ProcessInfo | None) -> str | None:
        """Name a flow in the metrics: by what still held when it began."""
        names = self._of(row, who, row.first_ns)
        if names.best is None:
            return None
        return next((one.name for one in names.names if not one.expired), None)

    def _of(
        self, row: EventTuple | FlowRow, who: ProcessInfo | None, now_ns: int, *, socket: int = 0
    ) -> Named:
        if row.direction == self._inward:
            return NAMELESS
        via = bool(row.flags & self._decoder.via_loopback)
        peer = Peer(row.process, row.remote, row.remote_port)
        owner = owner_of(row.process, who.target if who else None)
        with self._lock:
            return self._book.of(owner, peer, now_ns, socket=socket, via_loopback=via)

    def close(self) -> None:
        """Let readers in other threads finish, and unmap the ring."""
        with self._lock:
            self._closed = True
            self.samples.close()

    def _refresh(self) -> None:
        if self._closed:
            return
        for sample in self.samples.drain():
            self._take(sample)
        self._tidy(time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def _take(self, sample: Sample) -> None:
        kind = self._decoder.sample(sample.head.kind)
        if kind == "dns":
            self._dns(sample)
        elif kind == "hello":
            self._hello(sample)
        elif kind == "request":
            self._request(sample)
        elif kind == "request-end":
            self._request_end(sample)

    def _tell(self, head: SampleTuple, process: int, event: str, **said: object) -> None:
        if len(self._waiting) >= TELL_MAX:
            self._lost("events_unread", 1)
            return
        who = self._registry.get(process)
        self._waiting.append(Told(who, self._decoder.spoken(head, who, self._clock.boot_ns, event, said)))

    # DNS

    def _dns(self, sample: Sample) -> None:
        head = sample.head
        if head.remote_port != dns.PORT:
            return  # a resolver's own side of what others ask it
        if head.proto == _UDP:
            self._message(head, sample.payload, cut=sample.cut)
            return
        key = (head.socket, head.outgoing)
        stream = self._answers.add(key, head.sequence, sample.payload, head.time_ns)
        found, used = dns.messages(stream.head())
        for data in found:
            self._message(head, data)
        if used > 0:
            self._answers.take(key, used, head.time_ns)
        if used < 0 or sample.cut or (stream.has_gap and stream.size > _GAP_MAX):
            # The rest is not to be had: what comes next may begin a message again
            rest = stream.head()[2:]
            self._answers.drop(key)
            self._message(head, rest, cut=True)

    def _message(self, head: SampleTuple, data: bytes, *, cut: bool = False) -> None:
        message = dns.parse(data, cut=cut)
        if message is None:
            self.unread["dns_malformed"] += 1
        elif head.outgoing and not message.response and self._decoder.is_denied(head.verdict):
            self._refuse(head, message.name, None)
            said = {"dns_type": message.kind, "verdict": "denied", "result": "EPERM"}
            self._tell(head, head.process, "dns", name=message.name, name_source="dns", **said)
        elif head.outgoing and not message.response:
            self._lookups.ask(question(head, message), head)
        elif message.response and not head.outgoing:
            self._answer(head, message)
        else:
            self.unread["dns_malformed"] += 1

    def _answer(self, head: SampleTuple, message: dns.Message) -> None:
        asker = self._lookups.answer(question(head, message))
        if asker is None:
            self.unread["dns_unasked"] += 1
            return
        addresses = () if message.truncated or message.result != "ok" else message.addresses
        if addresses:
            who = self._registry.get(asker.process)
            owner = owner_of(asker.process, who.target if who else None)
            self._book.told(owner, message.name, addresses, head.time_ns)
        self._tell(
            asker._replace(time_ns=head.time_ns),
            asker.process,
            "dns",
            name=message.name,
            name_source="dns",
            dns_type=message.kind,
            result="truncated" if message.truncated else message.result,
            answers=[address(one.packed) for one in message.addresses[:_ANSWERS_SHOWN]],
            duration_ms=max(head.time_ns - asker.time_ns, 0) / 1e6,
        )

    def _unanswered(self, asked: Question, head: SampleTuple) -> None:
        self._tell(
            head,
            head.process,
            "dns",
            name=asked.name,
            name_source="dns",
            dns_type=asked.kind,
            result="timeout",
        )

    # First words of clients

    def _hello(self, sample: Sample) -> None:
        head = sample.head
        if head.proto == _UDP:
            key = (head.socket, head.remote, head.remote_port)
            self._heard(head, self._initials.read(key, sample.payload, head.time_ns))
            return
        stream = self._hellos.add(head.socket, head.sequence, sample.payload, head.time_ns)
        for data, starts in stream.runs():
            found = tls.read(data, starts)
            self._heard(head, found.hello)
            if found.over:
                self._hellos.close(head.socket)
            if found.over or tls.may_be_tls(data[:2]):
                return  # what stands behind a gap in a hello is a part of it
        if not any(tls.unfinished(*run) for run in stream.runs()):
            self._hellos.drop(head.socket)  # a thousand plain connections keep nothing

    def _heard(self, head: SampleTuple, said: tls.Hello | None) -> None:
        if said is None:
            return
        if said.kind is tls.Kind.BROKEN:
            self.unread["hello_broken"] += 1
        elif said.name is None:
            self.unread[f"hello_{said.kind}"] += said.kind is not tls.Kind.HOST
        else:
            if self._decoder.is_denied(head.verdict):
                self._refuse(head, said.name, head.remote_port)
            encrypted = said.kind is tls.Kind.ECH
            peer = Peer(head.process, head.remote, head.remote_port)
            self._book.said(head.socket, peer, said.name, head.time_ns, encrypted=encrypted)
            if self.on_name is not None:
                self.on_name(head, said.name)

    def _refuse(self, head: SampleTuple, name: str, port: int | None) -> None:
        who = self._registry.get(head.process)
        if who is None or who.target is None:
            return
        one = Refused(who.target, name, port)
        if self.refusals.add(one) and self.on_refusal is not None:
            self.on_refusal(one)

    # A runtime's own API

    def _request(self, sample: Sample) -> None:
        line = _REQUEST.match(sample.payload)
        path = escape(line[1], PATH_MAX) if line else None
        self._requests.setdefault(sample.head.socket, deque(maxlen=PIPELINED_MAX)).append(path)
        self._requests.move_to_end(sample.head.socket)
        if len(self._requests) > REQUESTS_MAX:
            self._requests.popitem(last=False)  # its end is told without a path
        if not _is_own(sample.head, path):
            self._tell(sample.head, sample.head.process, "request", path=path)

    def _request_end(self, sample: Sample) -> None:
        head = sample.head
        waiting = self._requests.get(head.socket)
        path = waiting.popleft() if waiting else None  # answers come in the order of requests
        if not waiting:
            self._requests.pop(head.socket, None)
        who = self._registry.get(head.process) if self.on_request_end is not None else None
        if who is not None and self.on_request_end is not None:
            self.on_request_end(who)
        if not _is_own(head, path):
            ended = {"result": "ok", "duration_ms": head.duration_ns / 1e6}
            self._tell(head, head.process, "request", path=path, **ended)

    def _tidy(self, now_ns: int) -> None:
        for asked, head in self._lookups.late(now_ns):
            self._unanswered(asked, head)
        unfinished = len(self._hellos.tidy(now_ns)) + self._initials.tidy(now_ns)
        if unfinished:
            self.unread["hello_unfinished"] += unfinished
        self._answers.tidy(now_ns)


def _is_own(head: SampleTuple, path: str | None) -> bool:
    """Tell whether `tattle targets` asked this: a request that no user made is none to tell of."""
    return head.remote == _ASKER and path in QUESTIONS
