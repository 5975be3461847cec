"""`tattle unblock`, with a running daemon and without one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from tracer.bpf.engine import Engine
from tracer.cli.block import enforcement_of, no_daemon, tell_daemon
from tracer.cli.command import TARGETS, Command
from tracer.errors import DaemonAbsent, HostError
from tracer.host import capabilities, cgroups
from tracer.model.text import escape
from tracer.policy.enforcement import MAPS, POLICIES, find_policy
from tracer.policy.store import PolicyFile, Source

if TYPE_CHECKING:
    import argparse

    from tracer.host.cgroups import InstancePaths
    from tracer.policy.store import Saved


def _add_unblock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET")


def _unblock(arguments: argparse.Namespace) -> int:
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
            gone = _lift(engine, text)
    tell_daemon(instance)
    sys.stdout.write(f"{escape(gone.policy.target)} is not blocked any more\n")
    if gone.source is Source.CONFIG:
        sys.stdout.write("  the configuration blocks it: it will be again, until [[policy]] is gone there\n")
    return 0


def _lift(engine: Engine, text: str) -> Saved:
    if missing := sorted({*MAPS} - engine.pinned()):
        raise HostError(f"nothing can be unblocked: the pin of {missing[0]} is gone", "restart tattle first")
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
    f"Take a target's policy away, from the kernel and from what is kept. {TARGETS}",
    "  sudo tattle unblock ollama",
    _add_unblock,
    _unblock,
)
