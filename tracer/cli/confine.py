"""`tattle block -- COMMAND`: a command confined from its first instruction, as the user who called sudo."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tracer.bpf.engine import Engine
from tracer.cli.block import in_kernel, tell_daemon
from tracer.cli.unblock import take_away
from tracer.command import caller
from tracer.command.child import Child, Signals
from tracer.command.enclosure import Enclosure
from tracer.errors import DaemonAbsent, UsageError
from tracer.host import capabilities
from tracer.host.cgroups import cgroup2_root
from tracer.model.text import escape
from tracer.policy.rules import Mode, compile_policy
from tracer.runtimes.detect import of_command
from tracer.targets.finder import Finder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracer.command.caller import Caller
    from tracer.policy.enforcement import Blocked
    from tracer.policy.rules import Policy

_FAR_S: Final = 3600.0  # sigtimedwait(2) takes no infinite time


def confine(instance: str, policy: Policy, words: Sequence[str], engine: str | None) -> int:
    """Run a command under a policy to its end; returns its exit code, and leaves nothing behind."""
    compile_policy(policy)
    user = caller.find(os.environ)
    capabilities.require_loading()
    root = cgroup2_root()
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)

    def become() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limit)
        user.become()

    with Signals() as signals, Enclosure(root, Finder(root).cgroup_of("self"), user.uid) as enclosure:
        confined = replace(policy, target=f"cgroup:{enclosure.path}")
        with _in_force(instance, confined, words, engine) as done, enclosure.ended():
            _tell(words, user, done)
            child = Child(words, enclosure.directory, signals, become, user.environment)
            _follow(child, signals)
    return child.exit_code or 0


def _follow(child: Child, signals: Signals) -> None:
    """Pass signals and stops on until the command ends."""
    while not child.ended():
        if (told := signals.wait(_FAR_S)) is not None:
            child.handle(told)
            child.follow_stop()


@contextlib.contextmanager
def _in_force(instance: str, policy: Policy, words: Sequence[str], made_by: str | None) -> Iterator[Blocked]:
    """Have the policy in force for the time of the block."""
    try:
        with in_kernel(instance, made_by) as enforcement:
            done = enforcement.block(policy, run=of_command(words), is_run=True)
            enforcement.tell_phases()
    except UsageError as error:
        raise UsageError(error.message.replace(policy.target, words[0]), error.hint) from None
    tell_daemon(instance)
    try:
        yield done
    finally:
        with contextlib.suppress(DaemonAbsent, UsageError), Engine.attach_readonly(instance) as engine:
            take_away(engine, policy.target)
        tell_daemon(instance)


def _tell(words: Sequence[str], user: Caller, done: Blocked) -> None:
    """Say on standard error what holds, for standard output is the command's."""
    policy = done.policy
    word = "audited" if policy.mode is Mode.AUDIT else "blocked"
    kept = f", {' and '.join(map(escape, policy.keep))} kept" if policy.keep else ""
    lines = [f"{escape(words[0])} runs as {escape(user.name)}, {word}{kept}: {escape(policy.target)}"]
    if not user.uid:
        lines.append("as root it could leave its confinement: call sudo as yourself")
    sys.stderr.writelines(f"tattle: {line}\n" for line in lines)
    sys.stderr.flush()
