"""`tattle unblock`, with a running daemon and without one."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tracer.bpf.engine import Engine
from tracer.cli.block import enforcement_of, no_daemon, tell_daemon
from tracer.cli.command import TARGETS, Command
from tracer.errors import DaemonAbsent, HostError
from tracer.history.timespec import SECOND, span
from tracer.host import capabilities, cgroups
from tracer.host.clock import BootClock
from tracer.model.text import escape
from tracer.policy.enforcement import MAPS, POLICIES, find_policy
from tracer.policy.rules import as_command, shell
from tracer.policy.store import PolicyFile, Source

if TYPE_CHECKING:
    import argparse

    from tracer.host.cgroups import InstancePaths
    from tracer.policy.store import Saved


def _add_unblock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument(
        "--for", dest="duration", metavar="TIME", help="only so long (90s, 10m, 2h): then it is blocked again"
    )


def _unblock(arguments: argparse.Namespace) -> int:
    if arguments.duration is not None:
        return lift(arguments.instance, arguments.target, arguments.duration)
    return unblock(arguments.instance, arguments.target)


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
            gone = take_away(engine, text)
    tell_daemon(instance)
    sys.stdout.write(f"{escape(gone.policy.target)} is not blocked any more\n")
    if gone.source is Source.CONFIG:
        sys.stdout.write("  the configuration blocks it: it will be again, until [[policy]] is gone there\n")
    return 0


def lift(instance: str, text: str, duration: str) -> int:
    """Lift a policy for some time; returns the exit code."""
    seconds = span(duration) / SECOND
    capabilities.require_loading()
    try:
        engine = Engine.attach_readonly(instance)
    except DaemonAbsent:
        raise HostError(
            f"'{escape(text)}' cannot be lifted for a while: nothing of instance {instance} is loaded",
            "start it: tattle run",
        ) from None
    with engine:
        _require_pins(engine)
        lifted, until = enforcement_of(engine).lift(text, seconds)
    tell_daemon(instance)
    name = escape(lifted.policy.target)
    at = datetime.fromtimestamp((until + BootClock().boot_ns) / SECOND).astimezone()
    gone = shell(["tattle", "unblock", lifted.policy.target], instance)
    sys.stdout.write(
        f"{name} is not blocked for {escape(duration)}, until {at:%H:%M:%S}; then it is again, by itself\n"
        f"block it now: {as_command(lifted.policy, instance)}; for good: {gone}\n"
    )
    return 0


def _require_pins(engine: Engine) -> None:
    if missing := sorted({*MAPS} - engine.pinned()):
        raise HostError(f"nothing can be unblocked: the pin of {missing[0]} is gone", "restart tattle first")


def take_away(engine: Engine, text: str) -> Saved:
    """Take a target's policy away; the last one takes all that is loaded with it, where no daemon runs."""
    _require_pins(engine)
    enforcement = enforcement_of(engine)
    with no_daemon(engine.paths) as alone:
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


COMMAND: Final = Command(
    "unblock",
    "lift what block has put in force",
    "Take a target's policy away, from the kernel and from what is kept. With --for it comes back by "
    "itself, in the kernel, whether a daemon runs or not, and cuts what was opened meanwhile; block ends "
    f"that earlier, and so does a reboot. {TARGETS}",
    "  sudo tattle unblock ollama --for 10m\n  sudo tattle unblock ollama",
    _add_unblock,
    _unblock,
)
