"""Suggested rules: enough for what was seen, not one too many, and nothing that nobody explained."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.past import cell, past
from tracer.cli.parser import build
from tracer.history.destinations import Fate, places
from tracer.history.suggest import LAN_EACH, PORTS_EACH, document
from tracer.model.records import address
from tracer.model.scope import packed
from tracer.policy.rules import Policy, Table, compile_policy
from tracer.runtimes.purposes import Purposes

if TYPE_CHECKING:
    from tracer.history.destinations import Place
    from tracer.history.query import Past
    from tracer.history.reader import Seen

RESOLVER = "198.51.100.53"
ASKED = frozenset({packed(RESOLVER) or b""})
LAYERS = "r2.cloudflarestorage.com"


def rules(*cells: Seen, **changes: Any) -> list[str]:  # noqa: ANN401 - fields of a past
    """Give the suggested rules' texts, sorted."""
    return sorted(one["rule"] for one in document(past(cells, **changes), ASKED)["rules"])


def unexplained(*cells: Seen) -> list[str]:
    """Give the rules for a target that has no profile."""
    return rules(*cells, runtimes={})


def test_a_name_is_one_rule_whatever_its_addresses() -> None:
    """By DNS or as its clients say it, at IPv4 and IPv6, in any hour and phase."""
    name = "registry.ollama.ai"
    assert rules(
        cell(name=name, name_source="sni"),
        cell("203.0.113.8", name=name, hour=3, phase="pull"),
        cell("2001:db8::1", name=name, name_source="sni", comm="other"),
    ) == [f"{name}:443"]


def test_a_rule_says_why_and_how_often() -> None:
    """The purpose that the profile gives, and all that was counted."""
    cells = [
        cell(name="ollama.com", name_source="sni", phase="idle"),
        cell("203.0.113.8", name="ollama.com", name_source="sni", phase="idle", hour=5),
    ]
    (one,) = document(past(cells), ASKED)["rules"]
    assert "cloud model list" in one["purpose"]
    assert (one["attempts"], one["bytes_out"], one["bytes_in"]) == (2, 2000, 4000)
    assert (one["first_seen"], one["last_seen"]) == (
        "2026-11-29T00:01:00.000000Z",
        "2026-11-29T05:02:00.000000Z",
    )
    assert (one["unexpected"], one["note"], one["names"]) == (False, None, ["ollama.com"])


def keep(*cells: Seen) -> tuple[list[str], list[str]]:
    """Give the purposes that are suggested to be kept, and what the command allows beside."""
    found = document(past(cells), ASKED)
    command, purposes = found["keep"]["command"], found["keep"]["purposes"]
    given = build().parse_args(shlex.split(command)[1:]) if command else None
    assert purposes == (given.keep if given else [])
    return purposes, given.allow if given else []


def test_what_belongs_to_a_purpose_can_be_kept_in_its_phases_only() -> None:
    """Purposes stand for the rules whose places were seen in their phases; the others stay rules."""
    layers = f"abc.{LAYERS}"
    pull = [
        cell(name="registry.ollama.ai", name_source="sni", phase="pull"),
        cell("203.0.113.8", name=layers, name_source="sni", phase="pull"),
    ]
    lan = cell("192.168.0.7")
    assert keep(*pull) == (["pull"], [])
    assert keep(*pull, lan) == (["pull"], ["192.168.0.7:443/tcp"])
    asked = [cell(name="ollama.com", name_source="sni", phase=one) for one in ("idle", "startup")]
    assert keep(*asked, *pull) == (["pull", "catalog"], [])


def test_nothing_is_kept_for_what_was_seen_at_other_times() -> None:
    """What was seen in a phase that no purpose of its host has stays a rule."""
    other = cell(name="registry.ollama.ai", name_source="sni", phase="inference")
    assert keep(other) == ([], [])
    assert keep(other, cell("203.0.113.8", name=f"a.{LAYERS}", name_source="sni", phase="pull")) == (
        ["pull"],
        ["registry.ollama.ai:443"],
    )
    assert document(past([other], runtimes={}), ASKED)["keep"]["command"] is None


def test_what_the_profile_does_not_name_is_left_out() -> None:
    """Shown apart, by name and by address; the commands do not allow it."""
    cells = [
        cell(name="ollama.com", name_source="sni"),
        cell("203.0.113.9", name="evil.example", name_source="sni"),
        cell("203.0.113.10"),
    ]
    found = document(past(cells), ASKED)
    assert [one["rule"] for one in found["rules"]] == ["ollama.com:443"]
    assert sorted(one["rule"] for one in found["unexpected"]) == ["203.0.113.10:443/tcp", "evil.example:443"]
    assert all(one["unexpected"] for one in found["unexpected"])
    assert not [text for text in found["commands"].values() if "evil" in text or "203" in text]


def test_a_target_without_a_profile_gets_all() -> None:
    """Nobody can say what is unexpected there."""
    assert unexplained(cell(name="evil.example", name_source="sni"), cell("203.0.113.10")) == [
        "203.0.113.10:443/tcp",
        "evil.example:443",
    ]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"name_source": "sni"}, "x.example:443"),
        ({"name_source": "dns"}, "x.example:443+plain"),
        ({"name_source": "dns", "established": 0}, "x.example:443"),
        ({"name_source": "sni", "remote_port": 80}, "x.example:80+plain"),
        ({"name_source": "sni", "proto": "udp", "established": 0}, "x.example:443/udp"),
        ({"name_source": "hosts"}, "203.0.113.7:443/tcp"),
        ({"proto": "icmp", "remote_port": None}, "203.0.113.7"),
        ({"name": r"a\.b.example", "name_source": "sni"}, "203.0.113.7:443/tcp"),
        ({"name": "x." * 50 + "example", "name_source": "sni"}, "203.0.113.7:443/tcp"),
        ({"name": None, "name_source": "none"}, "203.0.113.7:443/tcp"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_rule_fits_what_was_spoken(changes: dict[str, Any], rule: str) -> None:
    """TLS names its server; what does not needs +plain; what no name can open goes by address."""
    assert unexplained(cell(**{"name": "x.example", **changes})) == [rule]


def test_a_name_of_the_hosts_file_goes_by_address() -> None:
    """Also where the client names its server itself: DNS is never asked, and opens nothing."""
    one, other = (cell(addr, name="x.example", name_source="sni") for addr in ("203.0.113.7", "203.0.113.8"))
    hosts = {one.remote_addr: ("x.example",)}
    found = document(past([one, other], runtimes={}), ASKED, lambda raw: hosts.get(address(raw), ()))
    assert sorted(one["rule"] for one in found["rules"]) == ["203.0.113.7:443/tcp", "x.example:443"]


def test_private_answers_need_lan() -> None:
    """A name that DNS answers with an address of the LAN."""
    seen = cell("192.168.1.9", name="nas.example", name_source="sni")
    assert unexplained(seen) == ["nas.example:443+lan"]
    assert unexplained(seen, cell(name="nas.example", name_source="sni")) == ["nas.example:443+lan"]


def test_one_hello_tells_that_it_is_tls() -> None:
    """A connection that ended before its first word (the slower of two) does not make the rule wider."""
    first = cell("2001:db8::9", name="x.example", name_source="dns")
    assert unexplained(first, cell(name="x.example", name_source="sni")) == ["x.example:443"]


def test_an_address_means_the_name_that_it_had_before() -> None:
    """As after a restart, when names are not known yet."""
    named = cell(name="x.example", name_source="sni")
    assert unexplained(named, cell(hour=1)) == ["x.example:443"]
    assert unexplained(named, cell(hour=1, remote_port=8443)) == ["203.0.113.7:8443/tcp", "x.example:443"]


def test_a_wildcard_is_taken_only_where_the_profile_has_it() -> None:
    """And where several names below it were seen; never for what the names merely have in common."""
    one, two = (cell(f"203.0.113.{at}", name=f"{at}.{LAYERS}", name_source="sni") for at in (1, 2))
    assert rules(one) == [f"1.{LAYERS}:443"]
    assert rules(one, two) == [f"*.{LAYERS}:443"]
    assert unexplained(one, two) == [f"1.{LAYERS}:443", f"2.{LAYERS}:443"]


def test_neighbours_that_fill_a_prefix_are_one_rule() -> None:
    """Exactly those that were seen: a prefix with a hole stays apart."""
    quartet = [cell(f"203.0.113.{at}") for at in (4, 5, 6, 7)]
    assert unexplained(*quartet) == ["203.0.113.4/30:443/tcp"]
    assert unexplained(*quartet[1:]) == ["203.0.113.5:443/tcp", "203.0.113.6/31:443/tcp"]
    pair = [cell(f"2001:db8::{at}") for at in (2, 3)]
    assert unexplained(*pair) == ["[2001:db8::2]/127:443/tcp"]


def test_many_ports_are_no_port() -> None:
    """Where the kernel's table would be full."""
    ports = range(1000, 1000 + PORTS_EACH + 1)
    many = [cell(remote_port=port) for port in ports]
    assert unexplained(*many) == ["203.0.113.7"]
    assert len(unexplained(*many[1:])) == PORTS_EACH
    assert unexplained(*(one._replace(name="x.example", name_source="sni") for one in many)) == ["x.example"]


def test_many_ports_of_udp_are_no_name() -> None:
    """A rule by name without a port is for TCP only: then its addresses are open."""
    ports = range(1000, 1000 + PORTS_EACH + 1)
    quic = [cell(name="x.example", name_source="sni", proto="udp", remote_port=port) for port in ports]
    found = document(past(quic, runtimes={}), ASKED)
    assert ([one["rule"] for one in found["rules"]], found["lookups"]) == (["203.0.113.7"], [])


def test_many_neighbours_are_the_lan() -> None:
    """A few are named one by one."""
    near = [cell(f"192.168.1.{at * 2}", remote_port=9000 + at) for at in range(1, LAN_EACH + 2)]
    assert unexplained(*near) == ["@lan"]
    assert len(unexplained(*near[1:])) == LAN_EACH


def test_what_needs_no_rule_gets_none() -> None:
    """Loopback, replies to others, and what was seen without an address."""
    assert (
        unexplained(cell("127.0.0.1"), cell("::1"), cell("192.168.1.4", direction="in", remote_port=None))
        == []
    )
    found = document(past([cell(None, remote_port=None)]), ASKED)
    assert (found["rules"], "1000 bytes" in found["cautions"][0]) == ([], True)


def test_multicast_goes_by_address() -> None:
    """There is no other rule for it."""
    assert unexplained(cell("224.0.0.251", proto="udp", remote_port=5353)) == ["224.0.0.251:5353/udp"]


def test_a_resolver_needs_no_rule_beside_names() -> None:
    """Rules by name let their own questions pass; without one, or of a strange server, it is told."""
    asks = cell(RESOLVER, proto="udp", remote_port=53)
    named = cell(name="x.example", name_source="sni")
    assert unexplained(asks, named) == ["x.example:443"]
    assert document(past([asks, named], runtimes={}), ASKED)["lookups"] == []
    (alone,) = document(past([asks, cell()], runtimes={}), ASKED)["lookups"]
    assert alone["rule"] == f"{RESOLVER}:53/udp"
    (strange,) = document(past([asks, named], runtimes={}), frozenset())["lookups"]
    assert strange["rule"] == f"{RESOLVER}:53/udp"
    (loop,) = document(past([cell("127.0.0.53", proto="udp", remote_port=53)]), ASKED)["lookups"]
    assert loop["rule"] == "127.0.0.53:53/udp"


def test_names_that_somebody_else_asks_for_are_told() -> None:
    """Rules by name open what the target's own answers say, and it asks nobody by itself."""
    (said,) = document(past([cell(name="ollama.com", name_source="sni")]), ASKED)["cautions"]
    assert "nsswitch.conf" in said


def test_denied_questions_are_told() -> None:
    """Their names are not in the history; the daemon remembers them for a while."""
    asks = cell(RESOLVER, proto="udp", remote_port=53, denied=3, attempts=3)
    (said,) = document(past([asks, cell(name="ollama.com", name_source="sni")]), ASKED)["cautions"]
    assert said.startswith("3 questions for names were denied: tattle flows")


def test_an_address_of_this_host_needs_its_rule() -> None:
    """Policies do not know which addresses are this host's own; nobody calls it unexpected."""
    assert rules(cell(scope="host")) == ["203.0.113.7:443/tcp"]


def test_what_was_denied_is_told_and_left_out() -> None:
    """By call, and what was cut at its first word; what passed at another time is suggested."""
    by_call = cell(denied=3, attempts=3, established=0, packets_out=0, bytes_out=0)
    cut = cell("203.0.113.8", name="x.example", denied_packets=4, packets_out=3)
    found = document(past([by_call, cut], runtimes={}), ASKED)
    assert found["rules"] == []
    assert sorted(one["rule"] for one in found["denied"]) == ["203.0.113.7:443/tcp", "x.example:443+plain"]
    assert sorted(one["denied"] for one in found["denied"]) == [3, 4]
    assert unexplained(by_call, cell(hour=1)) == ["203.0.113.7:443/tcp"]
    assert unexplained(cell(would_deny=5)) == ["203.0.113.7:443/tcp"]


def test_the_commands_are_taken_by_the_command_line() -> None:
    """Quoted for a shell; audit differs from enforce by its option alone."""
    cells = [cell(f"203.0.113.{at}", name=f"{at}.{LAYERS}", name_source="sni") for at in (1, 2)]
    found = document(past([*cells, cell("fd00::1")], instance="other"), ASKED)["commands"]
    audit, enforce = (shlex.split(found[word]) for word in ("audit", "enforce"))
    assert [word for word in audit if word != "--audit"] == enforce
    assert f"'*.{LAYERS}:443'" in found["enforce"]
    given = build().parse_args(enforce[1:])
    assert (given.target, given.instance) == ("ollama", "other")
    assert given.allow == [f"*.{LAYERS}:443", "[fd00::1]:443/tcp"]
    build().parse_args(shlex.split(found["look"])[1:])


def test_nothing_seen_is_a_policy_without_rules() -> None:
    """It can be blocked whole."""
    found = document(past([]), ASKED)
    assert found["commands"]["enforce"] == "tattle block ollama"
    assert "nothing of it was seen" in found["cautions"][0]
    assert document(past([cell("127.0.0.1")]), ASKED)["cautions"] == []


NAMES = (None, "a.example", "b.example", "ollama.com", f"1.{LAYERS}", f"2.{LAYERS}", "c.hf.co")
ADDRESSES = (*(f"203.0.113.{at}" for at in (4, 5, 6, 7, 9)), "2001:db8::1", "2001:db8::2")
NEAR = (
    "10.0.0.1",
    "10.0.0.2",
    "192.168.1.5",
    "192.168.7.7",
    "172.16.3.3",
    "fd00::1",
    "224.0.0.251",
    "127.0.0.1",
)
seen = st.lists(
    st.builds(
        lambda addr, name, source, port, proto, established: cell(
            addr,
            name=name,
            name_source=source if name else "none",
            remote_port={"icmp": None, "udp": 443}.get(proto, port),
            proto=proto,
            established=established if proto == "tcp" else 0,
        ),
        st.sampled_from(ADDRESSES + NEAR),
        st.sampled_from(NAMES),
        st.sampled_from(("sni", "dns", "hosts")),
        st.sampled_from((80, 443, 8443, *range(2000, 2012))),
        st.sampled_from(("tcp", "tcp", "udp", "icmp")),
        st.integers(0, 1),
    ),
    max_size=25,
)


def stopped(place: Place, table: Table) -> bool:
    """Say, by the words of the README, whether a policy stops what was done: by name, where it went by name.

    That its address is open for another reason does not help: the name's next answer may be another one.
    """
    spot = place.spot
    if not place.by_name:
        return table.judge(spot.raw, spot.port, spot.number).denied
    name = spot.name or ""
    for entry in table.names:
        own = (
            name.endswith(f".{entry.pattern.name}") if entry.pattern.wildcard else name == entry.pattern.name
        )
        speaks = [port for port in entry.ports if port.speaks(spot.port, spot.number)]
        fits = any(port.plain or not place.plain for port in speaks)
        if own and fits and (entry.lan or spot.scope != "lan"):
            return False
    return True


def wanted(found: Past) -> list[Place]:
    """Give the places that the rules are for."""
    purposes = Purposes()
    purposes.know(found.runtimes)
    return [one for one in places(found.cells, purposes, "ollama", lambda _: ()) if one.fate is Fate.WANTED]


@settings(max_examples=300, deadline=None)
@given(seen, st.booleans())
def test_the_rules_are_enough_and_none_is_too_many(cells: list[Seen], profiled: bool) -> None:  # noqa: FBT001 - given
    """Replayed through the compiled policy all that was seen passes; without any one rule not all does."""
    found = past(cells) if profiled else past(cells, runtimes={})
    texts = tuple(one["rule"] for one in document(found, ASKED)["rules"])
    kept = wanted(found)
    whole = compile_policy(Policy("ollama", texts))
    assert not [one.spot for one in kept if stopped(one, whole)]
    for text in texts:
        fewer = compile_policy(Policy("ollama", tuple(other for other in texts if other != text)))
        assert [one for one in kept if stopped(one, fewer)], f"{text} of {texts} is not needed"
