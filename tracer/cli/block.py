"""`tattle block` and `tattle unblock`, with a running daemon and without one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sys
from typing import TYPE_CHECKING

from tracer import config
from tracer.bpf.engine import Engine
from tracer.daemon import control
from tracer.errors import AbiError, DaemonAbsent, HostError, InstanceBusy, TattleError
from tracer.host import capabilities, cgroups
from tracer.model.records import address
from tracer.model.text import escape
from tracer.policy.enforcement import MAPS, POLICIES, Enforcement, find_policy
from tracer.policy.rules import Mode, compile_policy
from tracer.policy.store import PolicyFile, Source
from tracer.session.session import engine_options
from tracer.targets.finder import BOOK, Finder, TargetBook, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.host.cgroups import InstancePaths
    from tracer.policy.enforcement import Blocked
    from tracer.policy.rules import Policy
    from tracer.policy.store import Saved

log = logging.getLogger("tattle")


def block(instance: str, policy: Policy, engine: str | None = None) -> int:
    """Put a policy in force, keep it, and say what that means; returns the exit code."""
    parse(policy.target)
    compile_policy(policy)
    capabilities.require_loading()
    with _in_kernel(instance, engine) as enforcement:
        done = enforcement.block(policy)
        enforcement.tell_phases()
    _tell_daemon(instance)
    sys.stdout.write(_account(instance, policy, done))
    return 0


def unblock(instance: str, text: str) -> int:
    """Take a policy away, from the kernel and from what is kept; returns the exit code."""
    capabilities.require_loading()
    paths = cgroups.instance_paths(instance, cgroups.bpffs_root())
    try:
        engine = Engine.attach_readonly(instance)
    except DaemonAbsent:
        gone = _forget(paths, text)
    else:
        with engine:
            gone = _lift(engine, text)
    _tell_daemon(instance)
    sys.stdout.write(f"{escape(gone.policy.target)} is not blocked any more\n")
    if gone.source is Source.CONFIG:
        sys.stdout.write("  the configuration blocks it: it will be again, until [[policy]] is gone there\n")
    return 0


def _lift(engine: Engine, text: str) -> Saved:
    if missing := sorted({*MAPS} - engine.pinned()):
        raise HostError(f"nothing can be unblocked: the pin of {missing[0]} is gone", "restart tattle first")
    enforcement = _enforcement(engine)
    with _no_daemon(engine.paths) as alone:
        gone = enforcement.unblock(text, watched=not alone)
        if alone and not engine.maps.enforcing():
            engine.unpin()
    return gone


def _forget(paths: InstancePaths, text: str) -> Saved:
    """Take a policy out of the file, where nothing of it is in the kernel."""
    file = PolicyFile(paths.state / POLICIES)
    policies = file.load()
    gone = policies.pop(find_policy(text, policies))
    with file.replaced(policies):
        return gone


@contextlib.contextmanager
def _in_kernel(instance: str, made_by: str | None) -> Iterator[Enforcement]:
    """Use what is pinned, if it is whole; else load it, with all policies that are kept."""
    lack = "it has just started, or is about to end"
    try:
        engine = Engine.attach_readonly(instance)
    except (DaemonAbsent, AbiError):
        pass
    else:
        with engine:
            missing = sorted({*MAPS} - engine.pinned())
            enforcement = None if missing else _enforcement(engine)
            if enforcement is not None and enforcement.hooked():
                yield enforcement
                return
            lack = (enforcement.lack() if enforcement else None) or f"the pin of {missing[0]} is gone"
    with _loaded(instance, made_by, lack) as enforcement:
        yield enforcement


@contextlib.contextmanager
def _loaded(instance: str, made_by: str | None, lack: str) -> Iterator[Enforcement]:
    found: list[Enforcement] = []

    def prepare(engine: Engine) -> None:
        found.append(_enforcement(engine))
        for error in found[0].restore(None):
            log.error("not enforced: %s; %s", error.message, error.hint)

    try:
        settings = config.load(None)
        made_by = made_by or settings.engine
        engine = Engine.open(engine_options(instance, settings, engine=made_by), prepare)
    except InstanceBusy:
        raise HostError(
            f"nothing can be blocked, though a daemon runs: {lack}",
            "restart it, then block again",
        ) from None
    with engine:
        yield found[0]


def _enforcement(engine: Engine) -> Enforcement:
    return Enforcement(engine, Finder(engine.root), TargetBook(engine.paths.state / BOOK))


@contextlib.contextmanager
def _no_daemon(paths: InstancePaths) -> Iterator[bool]:
    """Say whether no daemon runs, and keep one from starting meanwhile."""
    paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    with paths.lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _tell_daemon(instance: str) -> None:
    """Have a running daemon read the names of targets again; without one nobody needs to know."""
    try:
        for _ in control.ask(control.socket_path(instance), {"ask": "policies"}, instance):
            pass
    except DaemonAbsent:
        return
    except TattleError as error:
        log.warning("the daemon has not taken notice: %s", error.message)


def _account(instance: str, policy: Policy, done: Blocked) -> str:
    """Say in a few lines what is in force now."""
    name, option = escape(policy.target), "" if instance == "tattle" else f" --instance {instance}"
    count = len(policy.allow) + len(policy.deny)
    rules = f", {count} rule{'s' if count > 1 else ''}" if count else ""
    strict = ", replies too" if policy.strict else ""
    word = "audited" if policy.mode is Mode.AUDIT else "blocked"
    lines = [f"{name} is {word}: default {policy.default}{rules}{strict}"]
    lines += [f"  in force for {escape(path)} and all below it" for path in done.present]
    lines += [
        f"  not there yet, covered when it appears: {escape(path)}"
        for path in done.cgroups
        if path not in done.present
    ]
    if done.resolvers:
        asked = ", ".join(address(one) for one in done.resolvers)
        lines.append(f"  names may be asked of: {asked}")
    if done.cut:
        lines.append(f"  {done.cut} open connection{'s' if done.cut > 1 else ''} cut")
    what = "would be denied" if policy.mode is Mode.AUDIT else "is denied"
    lines.append(f"see what {what}: tattle watch {name}{option}; lift it: tattle unblock {name}{option}")
    return "\n".join(lines) + "\n"
