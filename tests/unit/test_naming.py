"""Which name a destination goes by: strength, age, no wrong names, and memory that stays flat."""

from __future__ import annotations

import itertools
import mmap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.message
import dns.rcode
import dns.rrset
import pytest
from front_fakes import ENUMS, FakeMaps, event, flow, packed, process
from hellos import client, quic

from exporters.series import Book
from tracer.abi import SampleTuple
from tracer.clock import BootClock
from tracer.decode import Decoder
from tracer.dns import Address
from tracer.hostsfile import HostsFile, parse
from tracer.lookups import Lookups
from tracer.namer import TELL_MAX, Namer
from tracer.naming import (
    ENTRIES_MAX,
    ENTRIES_OF_ONE,
    HOLD_S,
    NAMES_OF_ADDRESS,
    SAID_MAX,
    SHOWN_MAX,
    NameBook,
    Peer,
    owner_of,
)
from tracer.registry import Registry
from tracer.samples import Sample

if TYPE_CHECKING:
    from tracer.naming import Named

SECOND = 10**9
SERVER = packed("203.0.113.7")
PEER = Peer(1, SERVER, 443)
DECODER = Decoder(ENUMS)


def book(**options: Any) -> NameBook:  # noqa: ANN401 - bounds
    """Make a book from which nothing may get lost."""
    return NameBook(lambda count: pytest.fail(f"{count} names lost"), **options)


def told(
    names: NameBook, name: str, *addresses: str, owner: str | int = 1, now: int = 0, ttl: int = 60
) -> None:
    """Answer `owner` at second `now`."""
    names.told(owner, name, [Address(packed(one), ttl) for one in addresses or ["203.0.113.7"]], now * SECOND)


def shown(named: Named) -> list[tuple[str, str, bool]]:
    """Give each name with its source and whether it is the asker's own."""
    return [(one.name, one.source, one.own) for one in named.names]


def at(names: NameBook, now: int = 1, peer: Peer = PEER, **options: Any) -> Named:  # noqa: ANN401 - as `of` has them
    """Ask for the name at second `now`, as process 1."""
    return names.of(1, peer, now * SECOND, **options)


def test_strength() -> None:
    """What the client said, then what it was told, then what others were told, then the hosts file."""
    names = book(hosts=lambda _: ("hosts.example",))
    assert shown(at(names)) == [("hosts.example", "hosts", False)]
    told(names, "others.example", owner=2)
    assert at(names).best == at(names).names[0]
    assert shown(at(names))[0] == ("others.example", "dns", False)
    told(names, "own.example")
    assert shown(at(names))[0] == ("own.example", "dns", True)
    names.said(77, PEER, "said.example", SECOND)
    assert shown(at(names)) == [
        ("said.example", "sni", True),
        ("own.example", "dns", True),
        ("others.example", "dns", False),
        ("hosts.example", "hosts", False),
    ]
    assert at(names).source == "sni"


def test_nobody_knows() -> None:
    """No name, no source, and nothing is asked."""
    assert (at(book()).best, at(book()).source, at(book()).names) == (None, "none", ())


def test_the_one_asked_for_last_is_preferred() -> None:
    """Both are kept; asking again makes a name the newest."""
    names = book()
    told(names, "a.example", now=1)
    told(names, "b.example", now=2)
    assert shown(at(names, 3))[0][0] == "b.example"
    told(names, "a.example", now=4)
    assert [name for name, _, _ in shown(at(names, 5))] == ["a.example", "b.example"]
    assert at(names, 5).names[0].age_ns == SECOND


def test_names_on_one_address_are_told_apart_by_what_is_said() -> None:
    """Each connection has its own; one that has not spoken yet may be for what was asked for since."""
    names = book()
    told(names, "a.example", now=1)
    names.said(10, PEER, "a.example", 2 * SECOND)
    told(names, "b.example", now=3)
    assert at(names, 4, socket=10).best.name == "a.example"  # type: ignore[union-attr]
    assert at(names, 4, socket=11).best.name == "b.example"  # type: ignore[union-attr]
    names.said(11, PEER, "b.example", 5 * SECOND)
    assert at(names, 6, socket=10).best.name == "a.example"  # type: ignore[union-attr]
    assert at(names, 6, socket=11).best.name == "b.example"  # type: ignore[union-attr]
    assert {name for name, _, _ in shown(at(names, 6, socket=11))} == {"a.example", "b.example"}


def test_what_is_said_stays_with_process_address_and_port() -> None:
    """Another port, address or process has not been named by it."""
    names = book()
    names.said(10, PEER, "a.example", 0)
    for other in (
        PEER._replace(port=8443),
        PEER._replace(process=2),
        PEER._replace(remote=packed("203.0.113.8")),
    ):
        assert at(names, peer=other).best is None
    assert at(names, peer=PEER).source == "sni"


def test_expired_answers_are_marked() -> None:
    """After the TTL, but not before HOLD_S seconds; a name is not forgotten for it."""
    names = book()
    told(names, "a.example", ttl=60)
    told(names, "b.example", "203.0.113.8", ttl=0)
    assert [at(names, now).names[0].expired for now in (59, 61)] == [False, True]
    other = Peer(1, packed("203.0.113.8"), 443)
    assert [at(names, now, other).names[0].expired for now in (HOLD_S - 1, HOLD_S + 1)] == [False, True]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "224.0.0.251", "::ffff:127.0.0.1"]
)
def test_nobody_renames_loopback(address: str) -> None:
    """An answer that names this host itself is for nothing: o76."""
    names = book()
    told(names, "evil.example", address)
    assert len(names) == 0
    assert at(names, peer=Peer(1, packed(address), 443)).names == ()


def test_traffic_that_stays_here_has_no_name() -> None:
    """Neither by DNS nor by what a client says: it stands by its address, and what was said is listed."""
    names = book(hosts=lambda _: ("hosts.example",))
    told(names, "own.example")
    assert at(names, via_loopback=True).names == ()
    names.said(10, PEER, "said.example", 0)
    there = at(names, via_loopback=True, socket=10)
    assert (there.best, there.source, shown(there)) == (None, "none", [("said.example", "sni", True)])


def test_private_addresses_have_names() -> None:
    """A company's own servers are named by its own resolver."""
    names = book()
    told(names, "wiki.corp.example", "10.0.0.1")
    assert at(names, peer=Peer(1, packed("10.0.0.1"), 443)).source == "dns"


def test_a_resolver_is_not_named_by_its_answers() -> None:
    """Port 53 was not reached by a name."""
    names = book()
    told(names, "a.example")
    assert at(names, peer=PEER._replace(port=53)).best is None


def test_what_was_told_later_did_not_name_it_then() -> None:
    """An event from before the answer stays without a name."""
    names = book()
    told(names, "a.example", now=10)
    assert at(names, 9).best is None
    assert at(names, 10).best is not None


def test_a_target_is_one_asker() -> None:
    """What one process of a target was told is the whole target's own."""
    names = book()
    told(names, "a.example", owner=owner_of(5, "ollama"))
    assert names.of(owner_of(6, "ollama"), PEER, SECOND).names[0].own
    assert not names.of(owner_of(6, None), PEER, SECOND).names[0].own


def test_evictions_are_counted_exactly() -> None:
    """What still held and had to go is a loss, what had expired is none."""
    lost = 0

    def count(number: int) -> None:
        nonlocal lost
        lost += number

    names = NameBook(count, entries_max=50, of_one=20)
    for number in range(35):
        told(names, f"n{number}.example", f"198.51.100.{number}", ttl=100)
    assert (len(names), lost) == (20, 15)
    for number in range(20):
        told(names, f"m{number}.example", f"203.0.113.{number}", now=1000, ttl=100)
    assert (len(names), lost) == (20, 15)
    for owner in range(2, 102):
        told(names, "x.example", f"192.0.2.{owner}", owner=owner, now=1000)
    assert (len(names), lost) == (50, 15 + 70)


def test_one_flood_does_not_drive_out_anothers_names() -> None:
    """A process that asks for everything loses its own names only."""
    lost: list[int] = []
    names = NameBook(lost.append)
    told(names, "quiet.example", "198.51.100.1", owner="ollama")
    for number in range(3 * ENTRIES_OF_ONE):
        names.told(2, f"n{number}", [Address(number.to_bytes(2).rjust(16, b"\x20"), 60)], 0)
    assert names.of("ollama", Peer(9, packed("198.51.100.1"), 443), 1).best is not None
    assert len(lost) == 2 * ENTRIES_OF_ONE


def test_one_address_has_so_many_names() -> None:
    """The oldest goes; no more than SHOWN_MAX are told."""
    lost: list[int] = []
    names = NameBook(lost.append)
    for number in range(NAMES_OF_ADDRESS + 5):
        told(names, f"n{number}.example", now=number)
    assert sum(lost) == 5
    assert len(at(names, 100).names) == SHOWN_MAX


def test_a_name_that_others_know_is_not_lost() -> None:
    """Many processes ask for the same: the address keeps its name, and nothing is missed."""
    names = book()
    for owner in range(3 * NAMES_OF_ADDRESS):
        told(names, "popular.example", owner=owner)
    assert len(names) == NAMES_OF_ADDRESS
    assert shown(at(names)) == [("popular.example", "dns", False)]


def resident() -> int:
    """Give this process's resident memory in bytes, as proc_pid_statm(5) has it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_a_flood_leaves_memory_flat() -> None:
    """100,000 names, all of them new: the second half takes no memory, and what went is counted."""
    lost = [0]
    names = NameBook(lambda count: lost.__setitem__(0, lost[0] + count))

    def flood(start: int) -> None:
        for number in range(start, start + 50_000):
            packs = [Address((1 << 127 | number * 2 + each).to_bytes(16), 60) for each in (0, 1)]
            names.told(number % 100, f"n{number}.example", packs, number)
            names.said(number, Peer(number, packs[0].packed, 443), f"s{number}.example", number)

    flood(0)
    before = resident()
    flood(50_000)
    assert resident() - before < 4 << 20
    assert len(names) == ENTRIES_MAX
    assert lost[0] == 200_000 - ENTRIES_MAX + 100_000 - SAID_MAX


HOSTS = b"""127.0.0.1 localhost
# 198.51.100.1 commented.example
198.51.100.2 One.example alias.example # tail
2001:db8::5\tsix.example.
0.0.0.0 ads.example
198.51.100.2 more.example
nonsense line
198.51.100.9
198.51.100.3 203.0.113.1
\xff\xfe bytes.example
"""


def test_the_hosts_file() -> None:
    """Names by address, first line first; this host's own and odd lines have none."""
    assert {key: value for key, value in parse(HOSTS).items() if value} == {
        packed("198.51.100.2"): ("one.example", "alias.example", "more.example"),
        packed("2001:db8::5"): ("six.example",),
    }


def test_the_hosts_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """And its absence is no error."""
    path = tmp_path / "hosts"
    file = HostsFile(path)
    assert file(SERVER) == ()
    for text, expected in (
        (b"203.0.113.7 a.example\n", ("a.example",)),
        (b"203.0.113.7 bb.example\n", ("bb.example",)),
    ):
        path.write_bytes(text)
        file._next = 0
        assert file(SERVER) == expected
    path.unlink()
    file._next = 0
    assert file(SERVER) == ()


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
