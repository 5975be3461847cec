"""`tattle status`: what the kernel says is attached, enforced, lost and full; nothing here is remembered."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.bpf.engine import Engine
from tracer.cli.command import Command, add_json, print_json
from tracer.errors import DaemonAbsent, NotEnforced
from tracer.host.clock import BootClock
from tracer.model.records import timestamp
from tracer.model.status import OBSERVE
from tracer.model.text import escape
from tracer.policy.enforcement import MAPS, POLICIES, Enforcement
from tracer.policy.rules import Mode
from tracer.policy.store import PolicyFile
from tracer.targets.finder import BOOK, Finder, TargetBook
from tracer.targets.kernel import Membership
from tracer.targets.phases import MAPS as PHASES
from tracer.targets.phases import UNKNOWN, Phases

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from tracer.policy.enforcement import State
    from tracer.policy.store import Saved

Json = dict[str, Any]


def status(instance: str) -> Json:
    """Give the document of the contract; where nothing is pinned `engine` is null and no policy is active."""
    document: Json = {
        "engine": None,
        "kernel": platform.release(),
        "hooks": [],
        "maps": [],
        "targets": [],
        "losses": {},
    }
    try:
        engine = Engine.attach_readonly(instance)
    except DaemonAbsent:
        return document | {"targets": _kept(instance)}
    with engine:
        maps = engine.maps
        return document | {
            "engine": engine.made_by,
            "hooks": [hook._asdict() for hook in engine.hooks()],
            "maps": [size._asdict() for size in maps.sizes()],
            "targets": _targets(engine) if {*MAPS} <= engine.pinned() else _kept(instance),
            "losses": maps.losses(),
        }


def require_enforced(document: Json, targets: Iterable[str]) -> None:
    """Raise NotEnforced for the first of `targets` whose policy the kernel does not hold, or only audits."""
    known = {one["target"]: one for one in document["targets"]}
    for name in targets:
        told = known.get(name, {"mode": OBSERVE, "active": False})
        if told["mode"] == OBSERVE:
            raise NotEnforced(f"{escape(name)} has no policy", f"tattle block {escape(name)}")
        if told["mode"] != Mode.ENFORCE:
            raise NotEnforced(f"the policy of {escape(name)} only audits", f"tattle block {escape(name)}")
        if not told["active"]:
            raise NotEnforced(
                f"the policy of {escape(name)} is not in force", "start the daemon: systemctl start tattle"
            )


def _targets(engine: Engine) -> list[Json]:
    """Tell which cgroups are in which target, and of each policy whether the kernel has all of it."""
    book = TargetBook(engine.paths.state / BOOK)
    states = Enforcement(engine, Finder(engine.root), book).states()
    told = {state.saved.policy.target for state in states}
    members = Membership(engine, book)
    blocked = [
        _target_of(state.saved, list(state.cgroup_ids), active=state.active)
        | {"members": members.shown(book.number(state.saved.policy.target)), **_stands(state)}
        for state in states
    ]
    watched = [
        _target(name, members.cgroups(number), active=True) | {"members": members.shown(number)}
        for number in members.tables.named()
        if (name := book.name(number)) not in told
    ]
    phases = Phases(engine) if {*PHASES} <= engine.pinned() else None
    return [one | _doing(phases, book, one["target"]) for one in (*blocked, *watched)]


def _stands(state: State) -> Json:
    """Tell how a policy stands, and until when it is lifted if it is."""
    until = timestamp(state.until + BootClock().boot_ns) if state.until else None
    return {"state": state.state, "until": until}


def _doing(phases: Phases | None, book: TargetBook, name: str | None) -> Json:
    """Tell what a target is doing now, and its requests in flight by phase."""
    known = phases.now(book.number(name)) if phases and name is not None else UNKNOWN
    return known._asdict()


def _kept(instance: str) -> list[Json]:
    """Tell of the policies that are kept, where nothing is loaded: none is in force."""
    saved = PolicyFile(Path("/var/lib") / instance / POLICIES).load()
    return [_target_of(one, [], active=False) for one in saved.values()]


def _target_of(saved: Saved, cgroups: list[int], *, active: bool) -> Json:
    policy = saved.policy
    told = _target(policy.target, cgroups, active=active)
    said = {"mode": policy.mode, "default": policy.default, "rules": policy.rule_texts()}
    return told | said | {"keep": list(policy.keep), "state": "waiting"}


def _target(name: str | None, cgroups: list[int], *, active: bool) -> Json:
    return {
        "target": name,
        "cgroup_ids": cgroups,
        "mode": OBSERVE,
        "default": None,
        "rules": [],
        "keep": [],
        "active": active,
        "members": [],
        "state": None,
        "until": None,
        **UNKNOWN._asdict(),
    }


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--enforced",
        action="append",
        default=[],
        metavar="TARGET",
        help="one line, and exit with 1 unless its policy is in force; may be repeated",
    )
    add_json(parser)


def _status(arguments: argparse.Namespace) -> int:
    document = status(arguments.instance)
    if arguments.enforced:
        require_enforced(document, arguments.enforced)
    if arguments.json:
        return print_json(document)
    if arguments.enforced:
        sys.stdout.write(f"in force: {', '.join(map(escape, arguments.enforced))}\n")
        return 0
    from exporters.terminal.views import print_status

    print_status(document, arguments.instance)
    return 0


COMMAND: Final = Command(
    "status",
    "what is attached, lost and full, as the kernel says",
    "Ask the kernel what of this instance is attached, how full its tables are, and what was lost. With "
    "--enforced: for scripts and units that must not start what is not blocked.",
    "  sudo tattle status\n  sudo tattle status --json | jq .losses\n  sudo tattle status --enforced ollama",
    _add_status,
    _status,
)
