"""DNS messages: what is asked and answered, compared with dnspython, and nothing raised on hostile bytes."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes import packed
from tracer.names import dns as own
from tracer.names.dns import ANSWERS_MAX, STREAM_MESSAGE_MAX, Message, messages, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

CHAIN = [
    *(f"c{number}.example. 60 IN CNAME c{number + 1}.example." for number in range(8)),
    "c8.example. 30 IN A 198.51.100.1 198.51.100.2",
    "c8.example. 30 IN AAAA 2001:db8::1 2001:db8::2",
]


def answer(name: str, records: Sequence[str], kind: str = "A", *, flags: int = 0) -> bytes:
    """Have dnspython write an answer; a record is `owner ttl class type value...` with one value or more."""
    message = dns.message.make_response(dns.message.make_query(name, kind, id=77))
    message.flags |= flags
    for record in records:
        owner, ttl, klass, rtype, *values = record.split()
        texts = values if rtype in ("A", "AAAA") else [" ".join(values)]
        message.answer.append(dns.rrset.from_text(owner, int(ttl), klass, rtype, *texts))
    return message.to_wire()


def read(name: str, records: Sequence[str], kind: str = "A", *, flags: int = 0) -> Message:
    """Write and parse."""
    found = parse(answer(name, records, kind, flags=flags))
    assert found is not None
    return found


def texts(message: Message) -> set[str]:
    """Give the addresses as text."""
    return {str(ip_address(one.packed).ipv4_mapped or ip_address(one.packed)) for one in message.addresses}


def test_a_question() -> None:
    """The name in lower case without its last dot, and the type's name."""
    found = parse(dns.message.make_query("WwW.ExAmPle.COM.", "AAAA", id=5).to_wire())
    assert found == Message(
        5, response=False, truncated=False, name="www.example.com", kind="AAAA", result="ok"
    )


def test_the_asked_name_stands_for_a_chain() -> None:
    """Eight CNAMEs, then four addresses: they are those of the name that was asked for."""
    found = read("c0.example.", CHAIN)
    assert found.name == "c0.example"
    assert texts(found) == {"198.51.100.1", "198.51.100.2", "2001:db8::1", "2001:db8::2"}
    assert found.chain == tuple(f"c{number}.example" for number in range(1, 9))
    assert {one.ttl for one in found.addresses} == {30}


def test_a_chain_in_any_order() -> None:
    """The order of records says nothing."""
    shuffled = CHAIN[::-1]
    assert texts(read("c0.example.", shuffled)) == texts(read("c0.example.", CHAIN))


def test_addresses_of_others_do_not_count() -> None:
    """A record that no chain leads to is somebody else's: it must not name its address."""
    found = read("a.example.", ["a.example. 60 IN A 198.51.100.1", "b.example. 60 IN A 203.0.113.9"])
    assert texts(found) == {"198.51.100.1"}


def test_a_chain_in_circles_ends() -> None:
    """CNAMEs that lead to each other."""
    circle = ["a.example. 9 IN CNAME b.example.", "b.example. 9 IN CNAME a.example."]
    assert read("a.example.", circle).addresses == ()


def test_hints_are_addresses_of_the_name() -> None:
    """HTTPS and SVCB records, RFC 9460."""
    for kind in ("HTTPS", "SVCB"):
        record = (
            f"a.example. 60 IN {kind} 1 . alpn=h2,h3 ipv4hint=198.51.100.4,198.51.100.5 ipv6hint=2001:db8::7"
        )
        found = read("a.example.", [record], kind)
        assert texts(found) == {"198.51.100.4", "198.51.100.5", "2001:db8::7"}
        assert found.kind == kind
    alias = ["a.example. 60 IN HTTPS 0 b.example.", "b.example. 60 IN HTTPS 1 . ipv4hint=198.51.100.6"]
    assert texts(read("a.example.", alias, "HTTPS")) == {"198.51.100.6"}


def test_other_types_give_no_address() -> None:
    """SRV, TXT and MX name hosts at most."""
    for kind, value in (("SRV", "1 1 443 b.example."), ("TXT", '"198.51.100.1"'), ("MX", "1 b.example.")):
        assert read("a.example.", [f"a.example. 60 IN {kind} {value}"], kind).addresses == ()


def test_rcode_and_truncation_are_told() -> None:
    """NXDOMAIN by name; the TC bit."""
    message = dns.message.make_response(dns.message.make_query("nx.example.", "A"))
    message.set_rcode(dns.rcode.NXDOMAIN)
    found = parse(message.to_wire())
    assert found is not None
    assert found.result == "NXDOMAIN"
    assert read("a.example.", [], flags=dns.flags.TC).truncated


def test_times_to_live() -> None:
    """0 and 1 as they are; one with the highest bit is zero (RFC 2181 8)."""
    wire = bytearray(answer("a.example.", ["a.example. 1 IN A 198.51.100.1"]))
    at = wire.rindex(struct.pack(">IH", 1, 4))
    for ttl, expected in ((0, 0), (1, 1), (2**31, 0), (2**32 - 1, 0), (2**31 - 1, 2**31 - 1)):
        wire[at : at + 4] = struct.pack(">I", ttl)
        found = parse(bytes(wire))
        assert found is not None
        assert found.addresses[0].ttl == expected


def test_chaos_gives_no_address() -> None:
    """Only class IN has addresses; the class stands for the type."""
    found = parse(dns.message.make_query("version.bind.", "TXT", "CH").to_wire())
    assert found is not None
    assert found.kind == "CH"


HEADER = struct.pack(">HHHHHH", 77, 0x8180, 1, 1, 0, 0)
QUESTION = b"\1a\7example\0\0\1\0\1"
RECORD = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc6\x33\x64\1"


def header(answers: int = 1, flags: int = 0x8180, questions: int = 1) -> bytes:
    """Write a header."""
    return struct.pack(">HHHHHH", 77, flags, questions, answers, 0, 0)


@pytest.mark.parametrize(
    "wire",
    {
        "empty": b"",
        "header only": header(),
        "pointer to itself": header() + b"\xc0\x0c\0\1\0\1",
        "two pointers in a circle": header() + b"\1a\xc0\x10\xc0\x0e\0\1\0\1",
        "labels in a circle": header() + b"\1a\1b\xc0\x0c\0\1\0\1",
        "pointer past the end": header() + b"\xff\xff\0\1\0\1",
        "label of 64 bytes": header() + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
        "name of 257 bytes": header() + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
        "65,535 records that are not there": header(65535) + QUESTION,
        "65,535 questions": header(questions=65535) + QUESTION,
        "no question": header(questions=0),
        "record without its end": header() + QUESTION + RECORD[:-1],
        "address of 3 bytes": header() + QUESTION + RECORD[:10] + b"\0\3\1\2\3",
        "address of none": header() + QUESTION + RECORD[:10] + b"\0\0",
        "CNAME longer than it says": header() + QUESTION + b"\xc0\x0c\0\5\0\1\0\0\0\1\0\1\1b\0",
        "update": header(flags=0x2800) + QUESTION,
    }.items(),
    ids=lambda pair: pair[0],
)
def test_malformed(wire: tuple[str, bytes]) -> None:
    """What is no message is none, and raises nothing."""
    assert parse(wire[1]) is None


def test_hard_to_read_is_bounded() -> None:
    """Names that lead through 500 pointers each are given up, not followed again and again."""
    pointers = b"".join(struct.pack(">H", 0xC000 | 12 + 2 * number) for number in range(500))
    wire = header(300) + QUESTION + RECORD[:-4] + struct.pack(">H", len(pointers)) + pointers
    assert parse(wire + (b"\xc3\x00" + RECORD[2:]) * 300) is None


def test_of_very_many_records_the_first_count() -> None:
    """A message of 64 KiB costs no more than ANSWERS_MAX records."""
    found = parse(header(4000) + QUESTION + RECORD * 4000)
    assert found is not None
    assert len(found.addresses) == 1
    different = b"".join(RECORD[:-2] + struct.pack(">H", number) for number in range(4000))
    found = parse(header(4000) + QUESTION + different)
    assert found is not None
    assert len(found.addresses) == ANSWERS_MAX


def test_a_cut_message_gives_what_is_whole() -> None:
    """A long packet is copied in part: the records before the cut are true."""
    wire = header(2) + QUESTION + RECORD + RECORD[:-1]
    assert parse(wire) is None
    found = parse(wire, cut=True)
    assert found is not None
    assert texts(found) == {"198.51.100.1"}


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (b"a.b", r"a\.b"),
        (b"a\\b", r"a\\b"),
        (b"\x1b[31m", r"\027[31m"),
        (b"a\0b", r"a\000b"),
        (b"a\nb", r"a\010b"),
        (b'a"b', 'a"b'),
        (b"*", "*"),
        (b"a b", r"a\032b"),
        ("é".encode(), r"\195\169"),
        (b"XN--80AK6AA92E", "xn--80ak6aa92e"),
    ],
)
def test_odd_labels_are_escaped(label: bytes, shown: str) -> None:
    """As RFC 1035 5.1 writes them: printable ASCII, and no dot that is none."""
    found = parse(header(0, 0x0100) + bytes([len(label)]) + label + b"\7example\0\0\1\0\1")
    assert found is not None
    assert found.name == f"{shown}.example"


NAMES = st.lists(st.text("abcdefghij-", min_size=1, max_size=8), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(NAMES, st.lists(st.ip_addresses(), max_size=6), st.integers(0, 2**31 - 1))
def test_as_dnspython_has_it(labels: list[str], addresses: list[object], ttl: int) -> None:
    """Whatever dnspython writes is read back the same."""
    name = ".".join(label.strip("-") or "x" for label in labels) + "."
    kinds = {4: "A", 6: "AAAA"}
    records = [f"{name} {ttl} IN {kinds[getattr(one, 'version')]} {one}" for one in addresses]  # noqa: B009 - hypothesis gives both
    found = read(name, records)
    assert found.name == name[:-1]
    assert {one.packed for one in found.addresses} == {packed(str(one)) for one in addresses}
    assert all(one.ttl == ttl for one in found.addresses)


def mutated(data: st.DataObject) -> bytes:
    """Change some bytes of a good answer, and perhaps its length."""
    wire = bytearray(answer("c0.example.", CHAIN))
    for at in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=8)):
        wire[at] = data.draw(st.sampled_from([0, 1, 0x3F, 0x40, 0xC0, 0xFF]))
    return bytes(wire[: data.draw(st.integers(0, len(wire)))])


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutated_answers(data: st.DataObject) -> None:
    """Nothing is raised, and no address comes out that dnspython does not find there, too."""
    wire = mutated(data)
    found = parse(wire)
    if found is None or not found.addresses:
        return
    assert all(one.packed in wire or one.packed[12:] in wire for one in found.addresses)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(data: bytes, cut: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    """Random bytes raise nothing."""
    parse(data, cut=cut)
    parse(HEADER + data, cut=cut)
    parse(HEADER + QUESTION + data, cut=cut)
    messages(data)


def framed(*wires: bytes) -> bytes:
    """Write messages as TCP carries them."""
    return b"".join(len(wire).to_bytes(2) + wire for wire in wires)


def test_messages_of_tcp() -> None:
    """One, two in one segment, and one that is not whole yet."""
    one, two = answer("a.example.", CHAIN[:1]), answer("b.example.", CHAIN[:1])
    whole = framed(one, two)
    assert messages(whole) == ([one, two], len(whole))
    for cut in range(len(whole)):
        found, used = messages(whole[:cut])
        assert found == [one, two][: len(found)]
        assert used == len(framed(*found))


def test_a_message_that_is_too_long_ends_the_reading() -> None:
    """Before it, all count."""
    assert messages(framed(b"x") + (STREAM_MESSAGE_MAX + 1).to_bytes(2)) == ([b"x"], -1)


def test_random_names_of_a_tunnel_are_read() -> None:
    """200 long random names: each is told as it is."""
    source = random.Random(1)  # noqa: S311 - names, not secrets
    for _ in range(200):
        labels = ["".join(source.choices("abcdef0123456789", k=60)) for _ in range(3)]
        name = ".".join([*labels, "x.example"])
        found = own.parse(dns.message.make_query(f"{name}.", "TXT").to_wire())
        assert found is not None
        assert found.name == name
