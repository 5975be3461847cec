"""What was refused is told with the command that allows it, and bounded."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from tracer.cli.parser import build
from tracer.model.destination import DNS, SNI, Name
from tracer.model.rows import FlowRow
from tracer.model.scope import packed
from tracer.names.refusals import (
    NAMES_MAX,
    TARGETS_MAX,
    Refusals,
    Refused,
    allowing,
    allowing_address,
    opens,
    outlived,
)
from tracer.policy.rules import Mode, Phase, Policy, parse

POLICY = Policy(
    "ollama", ("registry.ollama.ai", "10.0.0.0/8:443"), ("evil.example",), mode=Mode.AUDIT, strict=True
)

OLD = Name("a.example", DNS, own=True, age_ns=75_000_000_000, expired=True)


def command(*what: object) -> str:
    """Return the command that allows a name which no rule speaks of."""
    found = allowing(*what)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_no_advice_that_is_followed_already() -> None:
    """A name that is allowed by now, or denied by a rule, is no question any more."""
    policy = Policy("x", ("*.example:443", "b.test"), ("evil.test",))
    assert allowing(policy, Refused("x", "a.example", 443), "tattle") is None
    assert allowing(policy, Refused("x", "A.Example.", None), "tattle") is None
    assert allowing(policy, Refused("x", "evil.test", None), "tattle") is None
    assert allowing(policy, Refused("x", "a.example", 80), "tattle") is not None
    assert allowing(policy, Refused("x", "example", 443), "tattle") is not None


def test_a_kept_name_is_told_with_its_phase() -> None:
    """What is open for a request only is not to be allowed for ever: it says for which, of all its rules."""
    policy = Policy(
        "x",
        ("a.test+inference", "open.test", "*.open.test+pull"),
        ("evil.test",),
        kept=("*.a.test:443+pull", "a.test+pull"),
    )

    def said(name: str, port: int | None = None) -> str | None:
        return opens(policy, Refused("x", name, port))

    assert said("b.a.test") == "only while a pull is in flight"
    assert said("A.test.", 443) == "only while a prompt is in flight or a pull is in flight"
    assert said("b.open.test", 443) == "only while a pull is in flight"
    assert [said("b.a.test", 80), said("open.test"), said("evil.test"), said("c.test")] == [None] * 4
    assert opens(replace(policy, deny=("b.a.test",)), Refused("x", "b.a.test", None)) is None
    assert allowing(policy, Refused("x", "b.a.test", None), "tattle") is None


def test_each_phase_has_words() -> None:
    """Whatever a rule can be bound to can be told."""
    for phase in Phase:
        rule = f"a.test+{phase.name.lower()}"
        assert parse(rule, deny=False).phases == 1 << phase
        assert (opens(Policy("x", (rule,)), Refused("x", "a.test", None)) or "").startswith("only while ")


def test_a_name_is_news_once() -> None:
    """Asked for again and again it is told once; the port of a connection is more than a question's."""
    refusals = Refusals()
    assert refusals.add(Refused("ollama", "cdn.example", None))
    assert not refusals.add(Refused("ollama", "cdn.example", 443))
    assert not refusals.add(Refused("ollama", "cdn.example", None))
    assert refusals.items() == [Refused("ollama", "cdn.example", 443)]


def test_any_number_of_names_takes_little_room() -> None:
    """The oldest makes room, in each target and of targets."""
    refusals = Refusals()
    for number in range(10 * NAMES_MAX):
        refusals.add(Refused(f"cgroup:/{number}", "x.example", None))
        refusals.add(Refused(f"cgroup:/{number}", f"{number}.example", None))
        refusals.add(Refused("cgroup:/0", f"{number}.example", None))
    assert len(refusals.items()) <= TARGETS_MAX * NAMES_MAX
    assert len({one.target for one in refusals.items()}) <= TARGETS_MAX


def test_the_command_allows_one_name_more() -> None:
    """It is a command of ours, and what it sets differs from the policy in that rule alone."""
    words = shlex.split(command(POLICY, Refused("ollama", "cdn.example", 443), "other"))
    assert words[0] == "tattle"
    given = build().parse_args(words[1:])
    assert given.allow == [*POLICY.allow, "cdn.example:443"]
    assert (given.target, given.deny, given.default) == ("ollama", ["evil.example"], "deny")
    assert (given.audit, given.strict, given.instance) == (True, True, "other")


def test_a_hostile_name_is_one_word() -> None:
    """Whoever copies the command runs nothing but that."""
    words = shlex.split(command(POLICY, Refused("ollama", "x.example;reboot", None), "tattle"))
    assert "x.example;reboot" in words


def test_an_address_is_allowed_by_exactly_one_rule_more() -> None:
    """Never where a rule speaks of it already; DNS is a matter of names."""

    def row(text: str, port: int, proto: int = 6) -> FlowRow:
        zeros = [0] * len(FlowRow._fields)
        return FlowRow(*zeros)._replace(remote=packed(text) or b"", remote_port=port, proto=proto)

    policy = Policy("x", ("192.0.2.0/24:443",), ("198.51.100.9",), strict=True)
    found = allowing_address(policy, row("2001:db8::7", 8443, 17), "tattle")
    assert found is not None
    rule, command = found
    assert rule == "[2001:db8::7]:8443/udp"
    given = build().parse_args(shlex.split(command)[1:])
    assert (given.allow, given.deny, given.strict) == ([*policy.allow, rule], ["198.51.100.9"], True)
    assert allowing_address(replace(policy, allow=(rule,)), row("2001:db8::7", 8443, 17), "tattle") is None
    assert allowing_address(policy, row("192.0.2.7", 443), "tattle") is None
    assert allowing_address(policy, row("192.0.2.7", 80), "tattle") is not None
    assert allowing_address(policy, row("198.51.100.9", 80), "tattle") is None
    assert allowing_address(policy, row("192.0.2.7", 53, 17), "tattle") is None


@pytest.mark.parametrize(
    ("allow", "deny", "port", "proto"),
    [
        (("b.test",), (), 443, 6),
        (("a.example:80",), (), 443, 6),
        (("a.example",), (), 443, 17),
        (("*.example",), ("a.example",), 443, 17),
        (("a.example:443/udp",), (), 443, 6),
        (("a.example+pull",), (), 443, 6),
    ],
)
def test_what_an_answer_has_not_opened_is_not_called_expired(
    allow: tuple[str, ...], deny: tuple[str, ...], port: int, proto: int
) -> None:
    """Another name, port or protocol; a name that is denied; one that its phase may have closed."""
    row = FlowRow(*[0] * len(FlowRow._fields))._replace(remote_port=port, proto=proto)
    assert outlived(Policy("x", allow, deny), row, [OLD]) is None


def test_an_address_that_outlives_its_answer_is_explained() -> None:
    """By the name that is allowed, however many others the address has; never while the answer holds."""
    row = FlowRow(*[0] * len(FlowRow._fields))._replace(remote_port=443, proto=6)
    policy = Policy("x", ("*.example:443",))
    others = [
        OLD._replace(name="b.test"),
        OLD._replace(own=False),
        OLD._replace(source=SNI),
        OLD._replace(expired=False),
    ]
    assert outlived(policy, row, others) is None
    assert outlived(policy, row, [*others, OLD]) == OLD
    assert outlived(Policy("x", ("a.example:443/udp",)), row._replace(proto=17), [OLD]) == OLD
