"""What the page asks for, done by the code of the commands: `block`, `unblock`, `targets`.

Their modules are loaded in the helper's child only, so that the daemon stays small.
"""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from exporters.http.requests import Done, Lock, Purpose, Rule, Runtime, Unlock
from tracer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporters.http.requests import Request
    from tracer.policy.rules import Policy


def performer(instance: str, engine: str | None = None) -> Callable[[Request], Done]:
    """Return what does requests for an instance; it raises TattleError where one cannot be done."""

    def perform(asked: Request) -> Done:
        match asked:
            case Lock():
                return _said(lambda: _lock(instance, asked, engine))
            case Rule():
                return _said(lambda: _rule(instance, asked, engine))
            case Unlock():
                return _said(lambda: _unlock(instance, asked))
            case _:
                return Done(found=_runtimes())

    return perform


def _said(do: Callable[[], int]) -> Done:
    """Do it, and return what the command says of it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        do()
    return Done(said.getvalue())


def _policy(instance: str, target: str) -> Policy | None:
    """Return the policy that a target has, however its selector is spelled; None: none."""
    from tracer.host import cgroups
    from tracer.policy.enforcement import POLICIES, find_policy
    from tracer.policy.store import PolicyFile

    paths = cgroups.instance_paths(instance, cgroups.bpffs_root())
    policies = PolicyFile(paths.state / POLICIES).load()
    try:
        return policies[find_policy(target, policies)].policy
    except UsageError:
        return None


def _lock(instance: str, asked: Lock, engine: str | None) -> int:
    from tracer.cli.block import block
    from tracer.policy.rules import Mode, Policy

    policy = _policy(instance, asked.target) or Policy(asked.target)
    return block(instance, replace(policy, mode=Mode(asked.mode), keep=asked.keep), engine)


def block_target(instance: str, target: str, engine: str | None) -> str:
    """Enforce a target's policy with its rules, or a new one; returns the first line that `block` says."""
    from tracer.cli.block import block
    from tracer.policy.rules import Mode, Policy

    policy = replace(_policy(instance, target) or Policy(target), mode=Mode.ENFORCE)
    with contextlib.redirect_stderr(io.StringIO()):  # what is logged would spoil the picture
        done = _said(lambda: block(instance, policy, engine))
    return done.text.partition("\n")[0]


def _rule(instance: str, asked: Rule, engine: str | None) -> int:
    """Add a rule; one that says the opposite in the same words goes."""
    from tracer.cli.block import block
    from tracer.policy.rules import Policy

    policy = _policy(instance, asked.target) or Policy(asked.target, default_allow=True)
    allow = [one for one in policy.allow if one != asked.rule]
    deny = [one for one in policy.deny if one != asked.rule]
    (allow if asked.allow else deny).append(asked.rule)
    return block(instance, replace(policy, allow=tuple(allow), deny=tuple(deny)), engine)


def _unlock(instance: str, asked: Unlock) -> int:
    from tracer.cli.unblock import lift, unblock
    from tracer.policy.rules import as_command

    if asked.seconds is not None:
        minutes, rest = divmod(asked.seconds, 60)
        return lift(instance, asked.target, f"{asked.seconds}s" if rest else f"{minutes}m")
    policy = _policy(instance, asked.target)
    code = unblock(instance, asked.target)
    if policy is not None and policy.rules():
        sys.stdout.write(f"  its rules are gone; to have them again: {as_command(policy, instance)}\n")
    return code


def _runtimes() -> tuple[Runtime, ...]:
    from tracer.cli.targets import find
    from tracer.host.cgroups import cgroup2_root
    from tracer.targets.finder import Finder

    return tuple(
        Runtime(
            name=one.runtime.name,
            title=one.runtime.title,
            running=bool(one.pids),
            how=one.how,
            purposes=tuple(Purpose(purpose.name, purpose.what) for purpose in one.runtime.purposes),
        )
        for one in find(Finder(cgroup2_root()))
    )
