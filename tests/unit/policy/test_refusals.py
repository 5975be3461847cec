"""What was refused is told with the command that allows it, and bounded."""

from __future__ import annotations

import shlex

from tracer.cli.parser import build
from tracer.policy.refusals import NAMES_MAX, TARGETS_MAX, Refusals, Refused, allowing
from tracer.policy.rules import Mode, Policy

POLICY = Policy(
    "ollama", ("registry.ollama.ai", "10.0.0.0/8:443"), ("evil.example",), mode=Mode.AUDIT, strict=True
)


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
    words = shlex.split(allowing(POLICY, Refused("ollama", "cdn.example", 443), "other"))
    assert words[0] == "tattle"
    given = build().parse_args(words[1:])
    assert given.allow == [*POLICY.allow, "cdn.example:443"]
    assert (given.target, given.deny, given.default) == ("ollama", ["evil.example"], "deny")
    assert (given.audit, given.strict, given.instance) == (True, True, "other")


def test_a_hostile_name_is_one_word() -> None:
    """Whoever copies the command runs nothing but that."""
    words = shlex.split(allowing(POLICY, Refused("ollama", "x.example;reboot", None), "tattle"))
    assert "x.example;reboot" in words
