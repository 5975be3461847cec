"""From samples to names and events: lookups, first words of clients, requests; and what the metrics say."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import dns.message
import dns.rcode
import dns.rrset
import pytest

from exporters.prometheus.series import Book
from tests.support.fakes import ENUMS, FakeMaps, event, flow, packed, process
from tests.support.hellos import client, quic
from tracer.bpf.samples import Sample
from tracer.host.clock import BootClock
from tracer.model.destination import Peer
from tracer.model.records import Decoder
from tracer.model.rows import SampleTuple
from tracer.names.observer import TELL_MAX, Namer
from tracer.names.queries import Lookups
from tracer.targets.processes import Registry

if TYPE_CHECKING:
    from tracer.model.destination import Named

SECOND = 10**9
SERVER = packed("203.0.113.7")
PEER = Peer(1, SERVER, 443)
DECODER = Decoder(ENUMS)


def shown(named: Named) -> list[tuple[str, str, bool]]:
    """Give each name with its source and whether it is the asker's own."""
    return [(one.name, one.source, one.own) for one in named.names]


class FakeSamples:
    """A ring that a test fills."""

    def __init__(self) -> None:
        self.waiting: list[Sample] = []

    def drain(self) -> list[Sample]:
        """Give all, once."""
        found, self.waiting = self.waiting, []
        return found

    def close(self) -> None:
        """Do nothing."""


RESOLVER = "192.0.2.53"
NUMBERS = {name.removeprefix("SAMPLE_"): number for name, number in ENUMS["sample_kind"].items()}


class Scene:
    """A namer with what it told and lost."""

    def __init__(self) -> None:
        self.ring = FakeSamples()
        self.lost: dict[str, int] = {}
        maps = FakeMaps(processes=[process(1), process(2, b"resolved", tgid=53)])
        self.registry = Registry(maps, ENUMS, lambda _: None)  # type: ignore[arg-type]
        self.namer = Namer(self.ring, self.registry, DECODER, BootClock(), self._count)  # type: ignore[arg-type]
        self.now = _boot_ns()

    def _count(self, reason: str, count: int) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + count

    def put(self, kind: str, data: bytes, **changes: Any) -> None:  # noqa: ANN401 - of many types
        """Have a packet of process 1 and socket 9 sampled now."""
        self.now += 1000
        head = SampleTuple(
            *(self.now, 1, 9, 0, packed("203.0.113.7"), 443, 40000, 0, len(data), len(data)),
            *(NUMBERS[kind], 6, 0, 1, 0, 0),
        )
        self.ring.waiting.append(Sample(head._replace(**changes), data))

    def ask(self, wire: bytes, **changes: Any) -> None:  # noqa: ANN401
        """Have a query leave."""
        known = {"remote": packed(RESOLVER), "remote_port": 53, "proto": 17}
        self.put("DNS", wire, **(known | changes))

    def reply(self, wire: bytes, **changes: Any) -> None:  # noqa: ANN401
        """Have an answer come."""
        self.ask(wire, **({"outgoing": 0} | changes))

    def tell(self) -> list[dict[str, Any]]:
        """Give what there is to tell."""
        return [one.event for one in self.namer.drain(wanted=True)]

    def name(self, remote: str = "203.0.113.7", **changes: Any) -> Named:  # noqa: ANN401
        """Name a flow of process 1."""
        return self.namer.flow(flow(remote, **changes), self.registry.get(changes.get("process", 1)))


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def query(name: str = "a.example.", kind: str = "A", number: int = 7) -> dns.message.Message:
    """Make a query."""
    return dns.message.make_query(name, kind, id=number)


def response(
    asked: dns.message.Message, *addresses: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR
) -> bytes:
    """Answer it."""
    message = dns.message.make_response(asked)
    message.set_rcode(rcode)
    if addresses:
        message.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", *addresses))
    return message.to_wire()


def test_a_lookup_names_a_flow_and_is_told_once() -> None:
    """Query and answer are one event: who asked whom for what, and what came."""
    scene = Scene()
    asked = query()
    scene.ask(asked.to_wire())
    assert scene.tell() == []
    scene.reply(response(asked, "203.0.113.7"))
    (event_,) = scene.tell()
    expected = {
        "event": "dns",
        "comm": "curl",
        "name": "a.example",
        "dns_type": "A",
        "result": "ok",
        "remote_addr": RESOLVER,
        "remote_port": 53,
        "answers": ["203.0.113.7"],
        "duration_ms": 0.001,
        "proto": "udp",
    }
    assert {key: event_[key] for key in expected} == expected
    assert scene.name().best.name == "a.example"  # type: ignore[union-attr]
    assert scene.lost == {}


def test_errors_are_told_by_name() -> None:
    """NXDOMAIN names nothing."""
    scene = Scene()
    scene.ask(query().to_wire())
    scene.reply(response(query(), rcode=dns.rcode.NXDOMAIN))
    assert [one["result"] for one in scene.tell()] == ["NXDOMAIN"]


def test_a_lookup_without_an_answer_is_told_in_the_end() -> None:
    """After ten seconds."""
    scene = Scene()
    scene.ask(query().to_wire(), time_ns=scene.now - 11 * SECOND)
    assert [(one["name"], one["result"]) for one in scene.tell()] == [("a.example", "timeout")]


@pytest.mark.parametrize(
    "changes",
    [
        {"remote": packed("192.0.2.54")},
        {"socket": 10},
        {"number": 8},
        {"name": "b.example."},
        {"kind": "AAAA"},
        {"twice": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_answers_to_nobodys_question_are_ignored(changes: dict[str, Any]) -> None:
    """Another resolver, socket, number, name or type, or a second answer: counted, naming nothing: o75."""
    scene = Scene()
    asked = query()
    scene.ask(asked.to_wire())
    if changes.pop("twice", False):
        scene.reply(response(asked))
    other = query(changes.pop("name", "a.example."), changes.pop("kind", "A"), changes.pop("number", 7))
    scene.reply(response(other, "203.0.113.7"), **changes)
    scene.namer.refresh()
    assert scene.namer.unread == {"dns_unasked": 1}
    assert scene.name().best is None


def test_malformed_messages_are_counted() -> None:
    """Also a response that leaves and a query that comes."""
    scene = Scene()
    scene.ask(b"junk")
    scene.ask(response(query()))
    scene.reply(query().to_wire())
    scene.namer.refresh()
    assert scene.namer.unread == {"dns_malformed": 3}


def test_truncated_answers_name_nothing() -> None:
    """The program will ask again, by TCP."""
    scene = Scene()
    scene.ask(query().to_wire())
    wire = bytearray(response(query(), "203.0.113.7"))
    wire[2] |= 2
    scene.reply(bytes(wire))
    assert [one["result"] for one in scene.tell()] == ["truncated"]
    assert scene.name().best is None


def test_a_resolvers_own_clients_are_not_its_lookups() -> None:
    """A server on this host: what its clients ask it is seen at their sockets."""
    scene = Scene()
    scene.reply(query().to_wire(), remote_port=40000, local_port=53)
    scene.ask(response(query(), "203.0.113.7"), remote_port=40000, local_port=53)
    assert scene.tell() == []
    assert not scene.namer.unread


def test_a_resolver_of_the_hosts_names_for_others() -> None:
    """What systemd-resolved was told is known to be another's."""
    scene = Scene()
    scene.ask(query().to_wire(), process=2)
    scene.reply(response(query(), "203.0.113.7"), process=2)
    scene.namer.refresh()
    (name,) = scene.name().names
    assert (name.name, name.source, name.own) == ("a.example", "dns", False)


def tcp(*wires: bytes) -> bytes:
    """Frame messages."""
    return b"".join(len(wire).to_bytes(2) + wire for wire in wires)


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (40,), (70, 71), (1, 2, 3, 90)])
def test_dns_over_tcp(cuts: tuple[int, ...]) -> None:
    """Pipelined, in one segment or cut anywhere, the last first: o72."""
    scene = Scene()
    one, two = query(number=1), query("b.example.", number=2)
    scene.ask(tcp(one.to_wire(), two.to_wire()), proto=6, sequence=5)
    answers = tcp(response(two, "203.0.113.8"), response(one, "203.0.113.7"))
    edges = [0, *cuts, len(answers)]
    parts = [(start, answers[start:end]) for start, end in itertools.pairwise(edges)]
    for start, part in (parts[0], *reversed(parts[1:])):
        scene.reply(part, proto=6, sequence=(2**32 - 60 + start) % 2**32)
    assert {one["name"] for one in scene.tell()} == {"a.example", "b.example"}
    assert scene.name("203.0.113.8").best.name == "b.example"  # type: ignore[union-attr]
    assert not scene.namer.unread


def test_dns_over_tcp_goes_on_behind_what_is_missing() -> None:
    """A segment that was not copied costs its own message only."""
    scene = Scene()
    scene.ask(tcp(query(number=1).to_wire()), proto=6, sequence=0)
    scene.reply(
        tcp(response(query(number=9), *(f"198.51.100.{n}" for n in range(200))))[:500], proto=6, payload=3200
    )
    scene.reply(tcp(response(query(number=1), "203.0.113.7")), proto=6, sequence=3200)
    assert [one["result"] for one in scene.tell()] == ["ok"]


def test_a_hello_names_its_connection() -> None:
    """Split, out of order, and again with another name: the first bytes count."""
    scene = Scene()
    hello = client("a.example")
    for start, end in ((0, 1), (200, 517), (1, 200)):
        scene.put("HELLO", hello[start:end], sequence=1000 + start)
    scene.put("HELLO", client("b.example"), sequence=1000)
    scene.namer.refresh()
    assert shown(scene.namer.event(event(socket=9, time_ns=scene.now), None)) == [("a.example", "sni", True)]
    assert scene.name().source == "sni"


def test_starttls_leaves_a_gap() -> None:
    """Of the plain text before only the first packet is copied."""
    scene = Scene()
    scene.put("HELLO", b"EHLO x\r\n", sequence=10)
    scene.put("HELLO", client("mail.example"), sequence=300)
    scene.namer.refresh()
    assert scene.name().best.name == "mail.example"  # type: ignore[union-attr]


def test_a_proxys_connection_goes_by_what_is_behind_it() -> None:
    """CONNECT first, then the hello within."""
    scene = Scene()
    scene.put("HELLO", b"CONNECT inner.example:443 HTTP/1.1\r\n\r\n", sequence=10)
    scene.namer.refresh()
    assert scene.name().best.name == "inner.example"  # type: ignore[union-attr]
    scene.put("HELLO", client("sni.example"), sequence=48)
    scene.namer.refresh()
    assert scene.name().best.name == "sni.example"  # type: ignore[union-attr]


def test_quic_names_its_connection() -> None:
    """By the Initial packet of an unconnected socket, too."""
    scene = Scene()
    for datagram in quic("quic.example"):
        scene.put("HELLO", datagram, proto=17)
    scene.namer.refresh()
    assert scene.name(proto=17).best.name == "quic.example"  # type: ignore[union-attr]


def test_hellos_without_a_name_are_counted() -> None:
    """None and broken ones, each by its reason; after ten seconds those that never were whole."""
    scene = Scene()
    scene.put("HELLO", client(None))
    scene.put("HELLO", client("a.example")[:40] + bytes(500), socket=10)
    scene.put("HELLO", client("a.example")[:40], socket=11, time_ns=scene.now - 11 * SECOND)
    scene.namer.refresh()
    assert scene.namer.unread["hello_none"] == 1
    assert scene.namer.unread["hello_broken"] == 1


def test_requests_begin_and_end() -> None:
    """A path without its query, and how long it took."""
    scene = Scene()
    scene.put("REQUEST", b"POST /api/chat?key=secret HTTP/1.1\r\nAuthorization: secret", direction=1, phase=3)
    scene.put("REQUEST_END", b"", direction=1, phase=3, duration_ns=5_000_000)
    begun, over = scene.tell()
    assert [begun[key] for key in ("event", "path", "duration_ms", "result")] == [
        "request",
        "/api/chat",
        None,
        None,
    ]
    assert (over["path"], over["duration_ms"], over["result"], over["phase"]) == (
        "/api/chat",
        5.0,
        "ok",
        "inference",
    )
    assert (begun["direction"], begun["remote_addr"]) == ("in", "203.0.113.7")
    assert "secret" not in str(begun)


def test_requests_end_in_their_order() -> None:
    """Pipelined ones of one connection, one that ends behind its path, and no request at all."""
    scene = Scene()
    for line in (b"GET /a HTTP/1.1\r\n", b"GET /b#x HTTP/1.1\r\n", b"GET /" + b"c" * 60, b"\x16\3\1"):
        scene.put("REQUEST", line)
    for _ in range(5):
        scene.put("REQUEST_END", b"")
    paths = [one["path"] for one in scene.tell()]
    assert paths[4:] == ["/a", "/b", "/" + "c" * 60, None, None]
    assert paths[:4] == paths[4:8]


def test_what_nobody_takes_is_bounded() -> None:
    """Events that wait for the loop, and questions for answers; each that is dropped is counted."""
    scene = Scene()
    for number in range(TELL_MAX + 10):
        scene.put("REQUEST", b"GET / HTTP/1.1\r\n", socket=number)
    scene.namer.refresh()
    assert scene.lost == {"events_unread": 10}
    assert len(scene.tell()) == TELL_MAX
    gone: list[int] = []
    waiting = Lookups(lambda: gone.append(1), most=10)
    for number in range(25):
        waiting.ask(number, SampleTuple(*([0] * 16)))  # type: ignore[arg-type]
    assert (len(waiting), len(gone)) == (10, 15)


def test_clients_of_ours_have_no_name() -> None:
    """Who connected to us was not reached by a name."""
    scene = Scene()
    scene.ask(query().to_wire())
    scene.reply(response(query(), "203.0.113.7"))
    scene.namer.refresh()
    assert scene.name(direction=1).best is None
    assert scene.namer.event(event(direction=1), None).best is None


def destinations(book_: Book, *rows: Any) -> dict[str, int]:  # noqa: ANN401
    """Fold rows; returns attempts by destination."""
    found: dict[str, int] = {}
    for series in book_.fold(list(rows), _boot_ns()):
        found[series.labels.destination] = found.get(series.labels.destination, 0) + series.now[0]
    return found


def test_metrics_carry_names_and_never_go_back() -> None:
    """A flow is labelled by what is known when it is first folded, whatever is learnt later."""
    scene = Scene()
    labels = Book(scene.registry, DECODER, 50, scene.namer)
    begun = scene.now
    early = flow("203.0.113.8", attempts=2, first_ns=begun, last_ns=begun)
    scene.ask(query().to_wire())
    scene.reply(response(query(), "203.0.113.7"))
    late = flow(attempts=3, first_ns=scene.now + 1, last_ns=begun)
    assert destinations(labels, early, late) == {"203.0.113.8": 2, "a.example": 3}
    scene.ask(query("b.example.").to_wire())
    scene.reply(response(query("b.example."), "203.0.113.7", "203.0.113.8"))
    assert destinations(labels, early, late._replace(attempts=4)) == {"203.0.113.8": 2, "a.example": 4}


def test_names_count_against_the_cap() -> None:
    """Beyond max_destinations names fold, and no attempt is lost."""
    scene = Scene()
    labels = Book(scene.registry, DECODER, 3, scene.namer)
    rows = []
    for number in range(10):
        asked = query(f"n{number}.example.", number=number)
        scene.ask(asked.to_wire())
        scene.reply(response(asked, f"198.51.100.{number}"))
        rows.append(flow(f"198.51.100.{number}", attempts=1, first_ns=scene.now + 1, last_ns=scene.now))
    found = destinations(labels, *rows)
    assert len(found) == 4
    assert found["other"] == 7
    assert sum(found.values()) == 10
