"""The kernel's readers of DNS against thousands of broken messages: nothing slips through, nothing opens."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.hellos import client, padded
from tests.support.named_world import ALLOWED, LIAR, World, answer_to, pem, question, resolver, world
from tracer.bpf.engine import Engine
from tracer.names.tls import client_hello
from tracer.policy.openings import Openings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.network import Lab

__all__ = ["pem", "resolver", "world"]  # fixtures

SEED: Final = 20261125
TYPES: Final = {1, 28}
TAIL: Final = 55
"""Bytes that EDNS with a cookie has: RFC 6891 6.1.2, RFC 7873 4."""


def broken(whole: bytes, choose: random.Random) -> bytes:
    """Change a few bytes, cut, lengthen, or repeat a part."""
    data = bytearray(whole)
    for _ in range(choose.randrange(1, 4)):
        at = choose.randrange(len(data))
        kind = choose.randrange(5)
        if kind == 0:
            data[at] = choose.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << choose.randrange(8)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = choose.randbytes(choose.randrange(1, 70))
        else:
            data += data[at : at + choose.randrange(1, 30)]
        if not data:
            return b"x"
    return bytes(data)


def is_allowed(message: bytes) -> bool:
    """Say whether this is the plain question for the allowed name: written anew, and more strictly."""
    wire = question(ALLOWED, 0)[12:-4]
    if len(message) < 12 + len(wire) + 4 or message[12 : 12 + len(wire)].lower() != wire.lower():
        return False
    flags, questions, answers, authorities, additionals = struct.unpack_from(">HHHHH", message, 2)
    kind, family = struct.unpack_from(">HH", message, 12 + len(wire))
    plain = not flags & 0xF800 and (questions, answers, authorities) == (1, 0, 0) and additionals <= 1
    return plain and kind in TYPES and family == 1 and len(message) - 12 - len(wire) - 4 <= TAIL


def test_of_broken_questions_only_whole_ones_leave(world: World, scratch: Path) -> None:
    """4,000 of them: the kernel lets go what a second reader calls a plain question, and nothing else."""
    world.jail.block("--allow", ALLOWED)
    choose = random.Random(SEED)  # noqa: S311 - the same ones each time
    cookie = b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08" + bytes(8)
    wholes = [question(ALLOWED, 7), question(ALLOWED, 7, 28, tail=cookie, counts=1)]
    messages = [broken(choose.choice(wholes), choose) for _ in range(4000)]
    file = scratch / "questions.hex"
    file.write_text("".join(f"{message.hex()}\n" for message in messages))
    gone = world.try_("utter", file=str(file))["gone"]
    expected = [is_allowed(message) for message in messages]
    differ = [
        message.hex() for message, left, may in zip(messages, gone, expected, strict=True) if left != may
    ]
    assert not differ
    assert 200 < sum(gone) < 3000  # both kinds are among them


def answer_of(number: int) -> bytes:
    """Make a true answer with an address of its own."""
    host = socket.inet_ntoa(struct.pack(">I", 0xC6120000 + number))  # 198.18.0.0/15, RFC 2544: nobody's
    return answer_to(question(ALLOWED, 0), host, "")


def behind(message: bytes, at: int) -> int:
    """Give where a name ends that may end in a pointer, wherever that leads (RFC 1035 4.1.4)."""
    while message[at]:
        if message[at] >= 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def told(message: bytes) -> set[bytes]:
    """Give the addresses that records of an answer hold, one by one until one is broken."""
    found: set[bytes] = set()
    with contextlib.suppress(IndexError, struct.error):
        questions, answers = struct.unpack_from(">HH", message, 4)
        at = 12
        for _ in range(questions):
            at = behind(message, at) + 4
        for _ in range(answers):
            at = behind(message, at)
            kind, family, _, size = struct.unpack_from(">HHIH", message, at)
            at += 10
            if (kind, family, size) == (1, 1, 4) and at + 4 <= len(message):
                found.add(message[at : at + 4])
            at += size
    return found


def opened(world: World) -> set[bytes]:
    """Ask the kernel which IPv4 addresses are open for the jail."""
    with Engine.attach_readonly(world.jail.daemon.instance) as engine:
        return {one.address[12:] for one in Openings(engine.maps, engine.abi)}


@pytest.mark.usefixtures("world")
def test_of_broken_answers_nothing_opens_that_they_do_not_say(world: World, lab: Lab, scratch: Path) -> None:
    """Of 600 broken and 60 true ones: what is open a second reader finds, too, and all that is true is."""
    world.jail.block("--allow", ALLOWED)
    choose = random.Random(SEED + 1)  # noqa: S311
    true = [answer_of(number) for number in range(60)]
    answers = [*true, *(broken(answer_of(number), choose) for number in range(60, 660))]
    choose.shuffle(answers)
    file = scratch / "answers.hex"
    file.write_text("".join(f"{(answer[2:] or b'x').hex()}\n" for answer in answers))
    before = opened(world)
    liar = lab.start("named.py", op="recite", host=LIAR, file=str(file), namespace=lab.peer_ns)
    liar.ready()
    liar.go()
    said = world.try_("listen", resolver=LIAR, times=len(answers))
    assert said["bytes_received"] == len(answers)
    found = opened(world) - before
    assert {address for answer in true for address in told(answer)} <= found
    assert found <= {address for answer in answers for address in told(bytes(2) + (answer[2:] or b"x"))}


def cuts_of(size: int, choose: random.Random) -> list[int]:
    """Choose where a stream of so many bytes is cut."""
    return sorted({choose.randrange(size) for _ in range(choose.choice((0, 1, 3, 40)))} - {0})


def written(file: Path, streams: list[tuple[bytes, list[int]]]) -> str:
    """Write streams to a file for the traffic program."""
    file.write_text("".join(f"{data.hex()} {' '.join(map(str, cuts))}\n" for data, cuts in streams))
    return str(file)


def framed(message: bytes) -> bytes:
    """Put a message behind its length (RFC 1035 4.2.2)."""
    return struct.pack(">H", len(message)) + message


@pytest.mark.usefixtures("world")
def test_pipelined_questions_are_answered_however_they_are_cut(world: World, lab: Lab, scratch: Path) -> None:
    """40 times 50 of them on one connection, more than a segment's worth: every address of theirs is open."""
    world.jail.block("--allow", ALLOWED)
    choose = random.Random(SEED + 2)  # noqa: S311 - the same ones each time
    asked, told = [], []
    for batch in range(40):
        numbers = range(20_000 + batch * 50, 20_050 + batch * 50)
        queries = b"".join(framed(question(ALLOWED, number)) for number in numbers)
        answers = b"".join(framed(answer_of(number)) for number in numbers)
        asked.append((queries, cuts_of(len(queries), choose)))
        told.append((answers, cuts_of(len(answers), choose)))
    server = lab.start(
        "named.py", op="recite_tcp", host=LIAR, file=written(scratch / "told", told), namespace=lab.peer_ns
    )
    server.ready()
    server.go()
    said = world.try_("pipeline", resolver=LIAR, file=written(scratch / "asked", asked), size=len(told[0][0]))
    assert said["errors"] == {}
    expected = {address for number in range(20_000, 22_000) for address in told_by(number)}
    assert len(expected) == 2000
    assert expected <= opened(world)


def told_by(number: int) -> set[bytes]:
    """Return the address of an answer."""
    return told(answer_of(number))


def came_of(world: World, streams: list[tuple[bytes, list[int]]], port: int, file: Path) -> list[bytes]:
    """Have the jail say these streams to an address that is open, and return what came of each."""
    server = world.jail.lab.start(
        "named.py", op="gather", host=LIAR, port=port, times=len(streams), namespace=world.jail.lab.peer_ns
    )
    server.ready()
    server.go()
    world.try_("scatter", host=LIAR, port=port, file=written(file, streams))
    return [bytes.fromhex(one) for one in server.result()["came"]]


def test_of_broken_streams_to_a_resolver_only_whole_questions_leave(world: World, scratch: Path) -> None:
    """300 of two messages each, cut anywhere: nothing arrives that a second reader does not allow."""
    world.jail.block("--allow", ALLOWED)
    choose = random.Random(SEED + 3)  # noqa: S311
    whole = framed(question(ALLOWED, 7))
    spoiled = [framed(broken(question(ALLOWED, 8), choose)) for _ in range(200)]
    spoiled += [broken(whole, choose) for _ in range(60)]
    streams = [whole + one for one in spoiled] + [whole * 2] * 40
    came = came_of(world, [(one, cuts_of(len(one), choose)) for one in streams], 53, scratch / "streams")
    assert came[-40:] == [whole * 2] * 40
    for data in came:
        at = 0
        while at < len(data):
            size = struct.unpack_from(">H", data, at)[0]
            assert is_allowed(data[at + 2 : at + 2 + size]), data.hex()
            at += 2 + size
        assert at == len(data)


def test_of_broken_hellos_none_with_another_name_leaves(world: World, scratch: Path) -> None:
    """300 of them, short and long, cut anywhere: OpenSSL reads no other name in what arrives."""
    world.jail.block("--allow", ALLOWED)
    assert LIAR in {host for _ in range(8) for host in world.try_("rounds", most=2)["met"]}
    choose = random.Random(SEED + 4)  # noqa: S311
    wholes = [client(ALLOWED), padded(client(ALLOWED), 6000, first=True), padded(client(ALLOWED), 1500)]
    streams = [broken(choose.choice(wholes), choose) for _ in range(200)]
    streams += [broken(client("evil.example"), choose) for _ in range(70)]
    streams += wholes * 10
    port = world.jail.lab.port()
    came = came_of(world, [(one, cuts_of(len(one), choose)) for one in streams], port, scratch / "hellos")
    assert came[-30:] == wholes * 10
    for data in came:
        hello = client_hello(data)
        assert hello is None or hello.name in {None, ALLOWED}, data.hex()


def test_a_full_table_opens_nothing(world: World, lab: Lab, scratch: Path) -> None:
    """An answer that finds no room is counted, and its address stays closed: it fails closed."""
    world.jail.block("--allow", ALLOWED)
    rounds, most = 560, 32
    file = scratch / "flood.hex"
    file.write_text("".join(f"{flood(number * most, most)[2:].hex()}\n" for number in range(rounds)))
    liar = lab.start("named.py", op="recite", host=LIAR, file=str(file), namespace=lab.peer_ns)
    liar.ready()
    liar.go()
    lost = world.jail.daemon.losses()["openings_full"]
    said = world.try_("listen", resolver=LIAR, times=rounds)
    assert said["bytes_received"] == rounds
    asked = rounds * most
    now = opened(world)
    assert world.jail.daemon.losses()["openings_full"] - lost >= asked - len(now)
    last = socket.inet_ntoa(struct.pack(">I", 0xC6130000 + asked - 1))
    assert socket.inet_aton(last) not in now
    assert world.try_("hello", host=last, sni=ALLOWED)["errno"] == "EPERM"
    world.jail.unblock()
    world.jail.block("--allow", "none.example")


def flood(first: int, count: int) -> bytes:
    """Make an answer with many addresses, each of its own."""
    body = question(ALLOWED, 0)[12:]
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIHI", 1, 1, 3600, 4, 0xC6130000 + number)
        for number in range(first, first + count)
    )
    return bytes(2) + b"\x81\x80" + struct.pack(">HHHH", 1, count, 0, 0) + body + records
