"""`--keep PURPOSE`: the hosts that a runtime's profile has under a purpose, as rules bound to its phases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tracer.errors import UsageError
from tracer.model.text import escape
from tracer.policy.rules import compile_policy
from tracer.runtimes.keep import kept

if TYPE_CHECKING:
    from tracer.policy.rules import Policy
    from tracer.runtimes.keep import Kept
    from tracer.runtimes.profiles import Runtime


def expand(policy: Policy, runtime: Runtime | None) -> Policy:
    """Return the policy with the rules that its purposes mean for the runtime that its target is.

    Raises UsageError where the runtime has no such purpose, or where it is not known what the target does.
    """
    if policy.keep:
        if runtime is None:
            raise _unknown(policy, f"--keep {escape(policy.keep[0])}")
        policy = replace(policy, kept=tuple(map(rule_of, kept(runtime, policy.keep))))
    if compile_policy(policy).is_phased and (runtime is None or not runtime.phases):
        bound = next(rule.text for rule in policy.rules() if rule.phases)
        raise _unknown(policy, f"rule '{escape(bound)}'")
    return policy


def rule_of(one: Kept) -> str:
    """Return the rule that keeps a host open."""
    return "+".join((one.name, *(["plain"] if one.plain else []), *one.phases))


def _unknown(policy: Policy, what: str) -> UsageError:
    return UsageError(
        f"{what}: nothing tells what '{escape(policy.target)}' is doing, for no profile has its API",
        "name a runtime that has a profile (tattle targets), start it first, or leave the phase out",
    )
