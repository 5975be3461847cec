"""An open connection under a new policy: what is denied, and what goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from tests.support.fakes import packed
from tracer.policy.reset import Judge, Stream
from tracer.policy.rules import Policy, compile_policy
from tracer.policy.tables import inherited

if TYPE_CHECKING:
    from tracer.policy.openings import Openings
    from tracer.policy.rules import PortRule
    from tracer.policy.tables import PolicyTables

PEER = packed("203.0.113.1")


class Kernel:
    """The tables of one policy, and the addresses that are open."""

    def __init__(self, policy: Policy, opened: dict[bytes, set[int]]) -> None:
        self.table = compile_policy(policy)
        self.opened = opened

    def number(self, _target: int) -> int:
        """Return the policy's number."""
        return 1

    def named(self, _number: int, name: int) -> tuple[PortRule, ...]:
        """Return what the policy says of a name."""
        return next((one.ports for one in self.table.names if one.id == name), ())

    def names(self, _target: int) -> dict[bytes, set[int]]:
        """Return what is open."""
        return self.opened


def denies(
    policy: Policy, opened: dict[bytes, set[int]] | None = None, phases: int = 0, **more: object
) -> bool:
    """Judge a connection to PEER that is as it is said, in these phases of the target."""
    stream = Stream(PEER, 443, 50_000, outward=True, own=False, name=0, judged=None)
    kernel = Kernel(policy, opened or {})
    judge = Judge(1, kernel.table, cast("PolicyTables", kernel), cast("Openings", kernel), phases)
    return judge.denies(stream._replace(**more))  # type: ignore[arg-type]


def number(policy: Policy) -> int:
    """Return the number of a policy's only name."""
    return compile_policy(policy).names[0].id


@pytest.mark.parametrize("rule", ["a.example+pull", "203.0.113.1:443+pull", "@internet+pull"])
@pytest.mark.parametrize("judged", [None, False, True])
def test_what_was_open_for_a_request_is_cut_when_none_is_in_flight(rule: str, judged: bool | None) -> None:  # noqa: FBT001 - a parameter
    """Whatever the kernel half said of it while there was one; a second request keeps it."""
    policy = Policy("x", (rule,))
    table = compile_policy(policy)
    (pull,) = {
        bits
        for bits in (1 << number for number in range(8))
        if not table.judge(PEER, 443, 6, phases=bits).denied
        or any(port.speaks_in(bits) for name in table.names for port in name.ports)
    }
    name = table.names[0].id if table.names else 0
    assert denies(policy, phases=0, name=name, judged=judged)
    assert denies(policy, phases=0xFF & ~pull, name=name, judged=judged)
    assert denies(policy, phases=pull, name=name, judged=judged) is bool(judged)


NAMED = Policy("x", ("a.example:443",))


@pytest.mark.parametrize(
    ("policy", "more", "expected"),
    [
        (Policy("x"), {}, True),
        (Policy("x"), {"own": True}, False),
        (Policy("x"), {"outward": False}, False),
        (Policy("x", strict=True), {"outward": False}, True),
        (Policy("x", strict=True), {"outward": False, "own": True}, False),
        (Policy("x", ("203.0.113.0/24",)), {}, False),
        (NAMED, {"name": number(NAMED)}, False),
        (NAMED, {"name": number(NAMED), "remote_port": 80}, True),
        (NAMED, {"name": 7}, True),
        (NAMED, {"opened": {PEER: {number(NAMED)}}}, False),
        (NAMED, {"opened": {PEER: {7}}}, True),
        (Policy("x", ("a.example",), ("203.0.113.1",)), {"opened": {PEER: {number(NAMED)}}}, True),
    ],
)
def test_what_the_policy_denies_is_cut(policy: Policy, more: dict[str, object], *, expected: bool) -> None:
    """By address, by scope, by the name that it began with, by those that its address is open for."""
    assert denies(policy, **more) is expected  # type: ignore[arg-type]


def test_what_the_kernel_has_said_holds() -> None:
    """It knows more of a connection than the tables tell."""
    assert denies(Policy("x", ("@internet",)), judged=True)
    assert not denies(Policy("x"), judged=False)


def test_a_wildcard_takes_over_what_it_covers() -> None:
    """The narrowest that covers a name; never a name for a wildcard, never one that is still there."""
    older = compile_policy(Policy("x", ("a.b.example", "*.c.example", "kept.example", "other.test"))).names
    newer = compile_policy(Policy("x", ("*.example", "*.b.example", "kept.example", "x.c.example"))).names
    taken = {str(old.pattern): str(new.pattern) for old, new in inherited(older, newer)}
    assert taken == {"a.b.example": "*.b.example", "*.c.example": "*.example"}
