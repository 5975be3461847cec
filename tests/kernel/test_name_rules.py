"""Rules by name: the first connect after the answer succeeds, and nothing else is opened."""

from __future__ import annotations

import contextlib
import shlex
import ssl
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cgroups import Jail, tattle
from tests.support.daemon import until
from tests.support.hellos import padded
from tests.support.named_world import (
    AAAA,
    ALLOWED,
    HANDSHAKE,
    LASTING,
    LIAR,
    OTHER,
    SHARED,
    TARGET,
    World,
    pem,
    question,
    resolver,
    world,
)
from tests.support.network import MORE4, PEER4, PEER6, Lab
from tracer.bpf import libbpf
from tracer.bpf.engine import Engine
from tracer.host.resolv_conf import look
from tracer.model.scope import packed
from tracer.policy.enforcement import Enforcement
from tracer.policy.openings import Openings
from tracer.targets.finder import BOOK, Finder, TargetBook

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cgroups import Judge

__all__ = ["pem", "resolver", "world"]  # fixtures


@pytest.mark.parametrize("how", [{}, {"connected": True}, {"tcp": True}, {"resolver": PEER6}], ids=str)
def test_the_first_connect_after_the_answer_succeeds(how: dict[str, Any], world: World) -> None:
    """250 times in each way to ask: never refused, never retried; answers by UDP rotate."""
    world.jail.block("--allow", ALLOWED)
    said = world.try_("rounds", times=250, greet=25, **how)
    assert (said["errors"], said["bytes_received"]) == ({}, 250)
    assert "tcp" in how or said["met"] == sorted([SHARED, MORE4[1]])
    assert said["said"] == f"you said {ALLOWED}"


def test_ipv6_answers_open_ipv6(world: World) -> None:
    """AAAA as well as A."""
    world.jail.block("--allow", ALLOWED)
    said = world.try_("rounds", type=28)
    assert (said["errors"], said["met"], said["bytes_received"]) == ({}, [PEER6], 1)


def test_no_address_is_open_before_its_answer(world: World) -> None:
    """Not even those of the name, as long as this target was not given them."""
    world.jail.block("--allow", "fresh.example")
    for host in (SHARED, *MORE4[1:], PEER4):
        assert world.try_("hello", host=host, sni=ALLOWED)["errno"] == "EPERM"


def test_what_one_target_was_given_is_not_open_for_another(world: World) -> None:
    """Each target has openings of its own."""
    world.jail.block("--allow", ALLOWED)
    assert world.try_("rounds")["bytes_received"] == 1
    other = Jail(world.jail.lab, world.jail.daemon)
    other.block("--allow", ALLOWED)
    try:
        for host in (SHARED, MORE4[1]):
            said = World(other, world.port).try_("hello", host=host, sni=ALLOWED)
            assert said["errno"] == "EPERM"
    finally:
        other.unblock()


def test_of_two_targets_with_rules_by_name_one_counts(world: World) -> None:
    """A process in both gets less than either allows, never more; the help says so."""
    wide = f"cgroup:/lab-{world.jail.lab.token}/*"
    world.jail.block("--allow", ALLOWED)
    tattle(world.jail.daemon.instance, "block", wide, "--allow", ALLOWED)
    try:
        said = world.try_("hello", host=SHARED, sni=ALLOWED)
        assert (said["errno"], said["bytes_received"]) == ("EPERM", 0)
    finally:
        tattle(world.jail.daemon.instance, "unblock", wide)
    assert world.try_("rounds")["bytes_received"] == 1


QUESTION = question(ALLOWED, 7)
"""An allowed one: each of the following differs from it in one thing."""
REFUSED = {
    "another-name": question(OTHER, 7),
    "below": question(f"x.{ALLOWED}", 7),
    "above": question("ollama.example", 7),
    "label-with-a-dot": QUESTION[:12] + b"\x0fregistry.ollama\x07example\0\0\1\0\1",
    "txt": question(ALLOWED, 7, 16),
    "https": question(ALLOWED, 7, 65),
    "any": question(ALLOWED, 7, 255),
    "chaos": QUESTION[:-1] + b"\3",
    "response": QUESTION[:2] + b"\x81\x00" + QUESTION[4:],
    "update": QUESTION[:2] + b"\x28\x00" + QUESTION[4:],
    "two-questions": QUESTION[:4] + b"\0\2" + QUESTION[6:] + question(OTHER, 7)[12:],
    "with-an-answer": QUESTION[:6] + b"\0\1" + QUESTION[8:],
    "with-data-behind": QUESTION + bytes(100),
    "with-a-fat-option": question(ALLOWED, 7, tail=b"\0\0\x29\x10\0\0\0\0\0\0\x64" + bytes(100), counts=1),
    "cut": QUESTION[:-3],
    "pointer": QUESTION[:12] + b"\xc0\x0c\0\1\0\1",
    "no-dns-at-all": b"secret" * 10,
    "one-byte": b"x",
    "many-labels": question(".".join("a" * 40) + "." + ALLOWED, 7),
}


@pytest.mark.parametrize("form", REFUSED)
def test_nothing_but_the_question_leaves(form: str, world: World, judge: Judge) -> None:
    """What is not a plain question for an allowed name fails with EPERM, and not a packet arrives."""
    world.jail.block("--allow", ALLOWED)
    before = judge.arrived()
    said = world.try_("raw", messages=[REFUSED[form].hex()])
    assert (said["errno"], said["bytes_received"]) == ("EPERM", 0)
    assert judge.arrived() == before


ACCEPTED = {
    "plain": QUESTION,
    "mixed-case": question("rEgIsTrY.OLLAMA.example", 7),
    "edns": question(ALLOWED, 7, tail=b"\0\0\x29\x10\0\0\0\0\0\0\0", counts=1),
    "cookie": question(ALLOWED, 7, tail=b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08" + bytes(8), counts=1),
}


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("form", ACCEPTED)
def test_the_question_leaves(form: str, tcp: bool, world: World) -> None:  # noqa: FBT001 - a parameter
    """In any case, with the options that resolvers' libraries add."""
    world.jail.block("--allow", ALLOWED)
    said = world.try_("raw", messages=[ACCEPTED[form].hex()], tcp=tcp)
    assert (said["errno"], said["bytes_received"]) == (None, 1)


@pytest.mark.parametrize("form", ["another-name", "txt", "no-dns-at-all", "with-data-behind"])
def test_nothing_else_leaves_by_tcp(form: str, world: World, judge: Judge) -> None:
    """The connection may begin, for it says nothing; the message does not leave, and it ends soon."""
    world.jail.block("--allow", ALLOWED)
    allowed = world.try_("raw", messages=[QUESTION.hex()], tcp=True)
    assert allowed["bytes_received"] == 1
    before = judge.arrived()
    said = world.try_("raw", messages=[REFUSED[form].hex()], tcp=True)
    assert (said["errno"], said["bytes_received"]) == ("ECONNABORTED", 0)
    assert judge.arrived().packets - before.packets <= HANDSHAKE


def test_not_anybody_may_be_asked(world: World, judge: Judge) -> None:
    """A server that the target's resolv.conf does not name would say whatever the program likes."""
    world.jail.block("--allow", ALLOWED)
    before = judge.arrived()
    assert world.try_("raw", messages=[QUESTION.hex()], resolver=MORE4[2])["errno"] == "EPERM"
    assert judge.arrived() == before


def test_a_resolver_is_followed_and_none_that_stays_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the host has got may be asked, one that it has given up may not; others notice nothing."""
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr("tracer.policy.enforcement.resolv_conf.look", partial(look, root=tmp_path))
    world.jail.block("--allow", ALLOWED)
    start, other = world.jail.lab.start, {"host": MORE4[2], "lie": "failed", "says": TARGET, "times": 100}
    server = start("named.py", op="lie", namespace=world.jail.lab.peer_ns, **other)
    asking = start("named.py", op="asking", resolver=PEER4, asks=ALLOWED, cgroup=world.jail.inside)

    def hosts_are(*nameservers: str) -> Any:  # noqa: ANN401 - an errno's name
        (tmp_path / "etc" / "resolv.conf").write_text("".join(f"nameserver {one}\n" for one in nameservers))
        enforcement.tidy()
        return world.try_("raw", messages=[QUESTION.hex()], resolver=MORE4[2])["errno"]

    try:
        server.ready()
        server.go()
        asking.ready()
        with Engine.attach_readonly(world.jail.daemon.instance) as engine:
            enforcement = Enforcement(engine, Finder(engine.root), TargetBook(engine.paths.state / BOOK))
            hosts = [(PEER4,), (PEER4, MORE4[2]), (PEER4,), (MORE4[2],), ()]
            # One look does not count: a file may be half written.
            assert [hosts_are(*nameservers) for nameservers in hosts] == ["EPERM", None, None, None, None]
            until(lambda: [] if hosts_are() == "EPERM" else ["what the host has given up may be asked"])
        asking.go()
        said = asking.result()
    finally:
        asking.process.kill()
        server.process.kill()
    assert said["errors"] == {}
    assert said["bytes_received"] > 0


OPEN_SECONDS = 60
"""The least, bpf/abi.h."""
LIES = ("id", "name", "type", "truncated", "failed", "query", "unasked")


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_opens_nothing(lie: str, world: World, lab: Lab) -> None:
    """Only the answer to what was asked, on this socket, of this resolver, opens an address."""
    world.jail.block("--allow", ALLOWED)
    liar = lab.start(
        "named.py", op="lie", host=LIAR, lie=lie, asks=ALLOWED, says=TARGET, namespace=lab.peer_ns
    )
    liar.ready()
    try:
        liar.go()
        world.try_("raw", messages=[QUESTION.hex()], resolver=LIAR)
        assert world.try_("hello", host=TARGET, sni=ALLOWED)["errno"] == "EPERM"
    finally:
        liar.process.kill()


def test_a_liar_that_tells_the_truth_opens(world: World, lab: Lab) -> None:
    """The control of the test above."""
    world.jail.block("--allow", ALLOWED)
    liar = lab.start("named.py", op="lie", host=LIAR, lie="", asks=ALLOWED, says=PEER4, namespace=lab.peer_ns)
    liar.ready()
    try:
        liar.go()
        world.try_("raw", messages=[QUESTION.hex()], resolver=LIAR)
        assert world.try_("hello", host=PEER4, sni=ALLOWED)["said"] == f"you said {ALLOWED}"
    finally:
        liar.process.kill()


@pytest.mark.parametrize("proto", ["udp", "raw"])
def test_a_target_does_not_answer_itself(proto: str, world: World) -> None:
    """One that may bind port 53, or forge it, would open what it likes."""
    world.jail.block("--allow", ALLOWED)
    said = world.try_("answer_itself", resolver="127.0.0.53", says=TARGET, proto=proto)
    assert said["bytes_received"] == 0
    assert world.try_("hello", host=TARGET, sni=ALLOWED)["errno"] == "EPERM"


def test_an_answer_leads_nowhere_inside(world: World) -> None:
    """Private and loopback addresses of a public name stay closed, unless the rule says so."""
    world.jail.block("--allow", "inside.example", "--allow", "loop.example:22")
    assert world.try_("rounds", asks="inside.example")["errno"] == "EPERM"
    world.jail.block("--allow", "inside.example+lan")
    assert world.try_("rounds", asks="inside.example")["errno"] != "EPERM"


def test_a_wildcard_opens_what_is_below(world: World) -> None:
    """And not the name itself."""
    world.jail.block("--allow", "*.wild.example")
    assert world.try_("rounds", asks="deep.sub.wild.example")["bytes_received"] == 1
    assert world.try_("rounds", asks="wild.example")["errno"] == "EPERM"


def test_a_denied_name_beats_an_allowed_wildcard(world: World) -> None:
    """Deny beats allow; under an allowing default only what is named is stopped."""
    world.jail.block("--allow", "*.example", "--deny", OTHER)
    assert world.try_("rounds")["bytes_received"] == 1
    assert world.try_("rounds", asks=OTHER)["errno"] == "EPERM"
    world.jail.block("--default", "allow", "--deny", OTHER)
    assert world.try_("rounds")["bytes_received"] == 1
    assert world.try_("rounds", asks=OTHER)["errno"] == "EPERM"
    assert world.try_("hello", host=SHARED, sni="third.example")["said"] == "you said third.example"
    assert world.try_("hello", host=SHARED, sni=OTHER)["said"] is None


def client_hello(sni: str | None) -> bytes:
    """Make what a client would say first, with the standard library's OpenSSL."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=sni or "x") if sni else None
    if client is None:
        context.check_hostname = False
        client = context.wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(hello: bytes, at: int) -> bytes:
    """Put a hello into two records (RFC 8446 5.1): a header stands among its bytes."""
    head, message = hello[:3], hello[5:]
    return b"".join(head + struct.pack(">H", len(part)) + part for part in (message[:at], message[at:]))


HELLO, OTHERS = client_hello(ALLOWED), client_hello(OTHER)
CUT = {
    "another-name": [client_hello(OTHER)],
    "below": [client_hello(f"x.{ALLOWED}")],
    "no-name": [client_hello(None)],
    "split-another-name": [OTHERS[:80], OTHERS[80:]],
    "two-records": [in_records(HELLO, 90)],
    "long-another-name": [padded(OTHERS, 9000)],
    "no-tls": [b"GET / HTTP/1.1\r\nHost: " + ALLOWED.encode() + b"\r\n\r\n"],
    "data": [b"secret" * 100],
    "garbage": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(50)],
}


@pytest.mark.parametrize("form", CUT)
def test_the_servers_name_has_to_be_allowed(form: str, world: World, judge: Judge) -> None:
    """On an address that is open for a name no other name, and nothing unread, leaves."""
    world.jail.block("--allow", ALLOWED)
    opened = world.try_("rounds", most=2)["met"]
    before = judge.arrived()
    said = world.try_("hello", host=opened[0], pieces=[piece.hex() for piece in CUT[form]])
    assert said["bytes_received"] == 0
    assert said["errno"] in {"ECONNABORTED", "EPIPE", "ECONNRESET"}
    assert judge.arrived().packets - before.packets <= HANDSHAKE


def cut_up(hello: bytes, pieces: int) -> list[bytes]:
    """Cut a hello into so many pieces of one size."""
    size = -(-len(hello) // pieces)
    return [hello[at : at + size] for at in range(0, len(hello), size)]


LET_THROUGH = {
    "whole": [HELLO],
    "split": [HELLO[:80], HELLO[80:]],
    "split-after-one": [HELLO[:1], HELLO[1:]],
    "in-40-pieces": cut_up(HELLO, 40),
    "16-KiB": [padded(HELLO, 15000)],
    "16-KiB-name-last": [padded(HELLO, 15000, first=True)],
    "16-KiB-in-40-pieces": cut_up(padded(HELLO, 15000, first=True), 40),
    "name-across-segments": [padded(HELLO, 1448 * 3 - 60 - len(HELLO) % 40, first=True)],
}


@pytest.mark.parametrize("form", LET_THROUGH)
def test_an_allowed_name_is_let_through(form: str, world: World) -> None:
    """In however many writes and segments the hello comes."""
    world.jail.block("--allow", ALLOWED)
    opened = world.try_("rounds", most=2)["met"]
    pieces = [piece.hex() for piece in LET_THROUGH[form]]
    assert world.try_("hello", host=opened[0], pieces=pieces)["bytes_received"] > 0


def test_a_plain_rule_does_without_tls(world: World) -> None:
    """Where the rule says so, for its port alone."""
    world.jail.block("--allow", f"{ALLOWED}:{world.port}+plain", "--allow", f"{ALLOWED}:443")
    opened = world.try_("rounds", most=2)["met"]
    assert world.try_("hello", host=opened[0], sni=OTHER)["said"] == f"you said {OTHER}"


def test_a_port_of_a_rule_holds(world: World) -> None:
    """The address is open at the rule's port only, and by TCP only."""
    world.jail.block("--allow", f"{ALLOWED}:443")
    assert world.try_("rounds")["errno"] == "EPERM"
    said = world.jail.lab.run(
        "udp.py", op="unconnected", host=SHARED, port=443, count=1, cgroup=world.jail.inside
    )[1]
    assert said["errno"] == "EPERM"


def expire(world: World) -> None:
    """Have the time of all that answers have opened be over."""
    with Engine.attach_readonly(world.jail.daemon.instance) as engine:
        fd, shape = engine.maps.fd("openings"), engine.maps.shape("openings")
        for keys, values in libbpf.batches(fd, shape.key_size, shape.value_size):
            for at in range(len(keys) // shape.key_size):
                key = keys[at * shape.key_size :][: shape.key_size]
                value = list(struct.unpack_from(engine.abi.opening.format, values, at * shape.value_size))
                value[1::4] = [1] * len(value[1::4])
                libbpf.update(fd, key, struct.pack(engine.abi.opening.format, *value))


def test_an_address_stays_open_as_long_as_a_connection_to_it(world: World) -> None:
    """When the answer's time is over, new connections pass while another is open; afterwards none does."""
    world.jail.block("--allow", ALLOWED)
    hosts = (SHARED, MORE4[1])
    program = world.jail.lab.start(
        "named.py", op="kept", resolver=PEER4, asks=ALLOWED, port=world.port, cgroup=world.jail.inside
    )
    program.ready()
    expire(world)

    def refused() -> list[str]:
        return [host for host in hosts if world.try_("hello", host=host, sni=ALLOWED)["errno"] == "EPERM"]

    assert len(refused()) == 1
    program.go()
    said = program.result()
    assert said["kept"]
    assert said["errors"] == {}
    until(lambda: [] if refused() == [*hosts] else ["still open"])


def test_an_answer_is_good_for_a_minute_at_least(world: World) -> None:
    """The resolver says two seconds; programs that keep answers for half a minute do not notice."""
    world.jail.block("--allow", ALLOWED)
    assert world.try_("rounds", type=AAAA)["met"] == [PEER6]
    with Engine.attach_readonly(world.jail.daemon.instance) as engine:
        found = [one for one in Openings(engine.maps, engine.abi) if one.address == packed(PEER6)]
    newest = max(found, key=lambda one: one.told)  # other targets of this daemon have been there, too
    assert newest.until - newest.told == OPEN_SECONDS


def test_a_new_policy_keeps_what_was_given(world: World) -> None:
    """One more allowance does not close what the old one has opened; without the name it is closed."""
    world.jail.block("--allow", LASTING)
    (host,) = world.try_("rounds", asks=LASTING)["met"]
    world.jail.block("--allow", LASTING, "--allow", "other.example")
    assert world.try_("hello", host=host, sni=LASTING)["said"] == f"you said {LASTING}"
    world.jail.block("--allow", "other.example")
    assert world.try_("hello", host=host, sni=LASTING)["errno"] == "EPERM"


def test_audit_counts_and_lets_pass(world: World) -> None:
    """A name that is not allowed: asked and spoken to all the same, and told as would-deny."""
    world.jail.block("--allow", ALLOWED, "--audit")
    world.jail.daemon.mark()
    assert world.try_("rounds", asks=OTHER)["bytes_received"] == 1
    until(
        lambda: (
            []
            if any(
                event["verdict"] == "would-deny"
                for event in world.jail.daemon.events()
                if event["event"] == "deny"
            )
            else ["no would-deny was told"]
        )
    )


@pytest.mark.parametrize("connected", [False, True])
def test_the_names_that_a_closed_target_wants_are_told(connected: bool, world: World) -> None:  # noqa: FBT001 - a parameter
    """Without any rule by name no question leaves, and `flows` has the names with what would allow them."""
    world.jail.block()
    name = f"wanted-{connected}.example".lower()
    assert world.try_("rounds", asks=name, connected=connected)["errno"] == "EPERM"

    def told() -> list[str]:
        refused = world.jail.daemon.ask("flows")["refused"]
        return [one["command"] for one in refused if one["name"] == name]

    until(lambda: [] if told() else ["the name is not told"])
    world.jail.block(*shlex.split(told()[0])[3:-2])
    assert told() == []


def test_what_was_refused_is_told_with_its_mend(world: World) -> None:
    """A pull that is redirected to another host: `flows` names it, and the command that allows it works."""
    world.jail.block("--allow", f"{ALLOWED}:{world.port}")
    world.jail.daemon.mark()
    assert world.try_("rounds", asks=OTHER)["errno"] == "EPERM"

    def told() -> list[dict[str, Any]]:
        refused = world.jail.daemon.ask("flows")["refused"]
        return [one for one in refused if (one["target"], one["name"]) == (world.jail.selector, OTHER)]

    until(lambda: [] if told() else ["the name is not told"])
    words = shlex.split(told()[0]["command"])
    assert words[:3] == ["tattle", "block", world.jail.selector]
    assert words[-2:] == ["--instance", world.jail.daemon.instance]
    world.jail.block(*words[3:-2])
    assert world.try_("rounds", asks=OTHER)["bytes_received"] == 1

    def verdicts() -> list[tuple[str | None, str]]:
        events = [one for one in world.jail.daemon.events() if one["event"] == "dns" and one["name"] == OTHER]
        return [(one["verdict"], one["result"]) for one in events]

    until(lambda: [] if (None, "ok") in verdicts() else [f"no answer was told: {verdicts()}"])
    assert verdicts()[0] == ("denied", "EPERM")
