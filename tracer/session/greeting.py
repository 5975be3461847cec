"""What was found on this host, in one sentence: how the start of `tattle run` at a terminal ends."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.model.scope import Scope
from tracer.model.text import escape
from tracer.policy.rules import shell
from tracer.runtimes.profiles import runtimes

if TYPE_CHECKING:
    from pathlib import Path

    from tracer.model.process import ProcessInfo
    from tracer.runtimes.profiles import Runtime
    from tracer.session.flows import Accounts
    from tracer.targets.finder import Finder

_OUTSIDE: Final = (Scope.LAN, Scope.INTERNET)
_STARTTIME: Final = 19  # proc_pid_stat(5): field 22, of those behind the name in brackets
_DAY_S: Final = 86400
_PULL: Final = "pull"


class Found(NamedTuple):
    """A runtime that runs here: since when (seconds of the epoch), and which hosts it was seen talking to."""

    runtime: Runtime
    since: float
    hosts: frozenset[str]


def look(finder: Finder, accounts: Accounts) -> list[Found]:
    """Return the runtimes that run on this host, the one that runs longest first."""
    found = [_found(one, finder, accounts) for one in runtimes().values()]
    return sorted((one for one in found if one is not None), key=lambda one: one.since)


def _found(runtime: Runtime, finder: Finder, accounts: Accounts) -> Found | None:
    pids = {int(pid) for pid in finder.running(runtime)}
    starts = [at for pid in pids if (at := _started(finder.proc / str(pid))) is not None]
    if not starts:
        return None

    def is_its(who: ProcessInfo | None) -> bool:
        return who is not None and bool({who.pid, who.ppid} & pids)

    _, flows = accounts.view(is_its)
    hosts = {
        one["name"] or one["remote_addr"]
        for one in flows
        if one["direction"] == "out" and one["scope"] in _OUTSIDE
    }
    return Found(runtime, min(starts), frozenset(hosts))


def _started(process: Path) -> float | None:
    """Return when a process started; None where it is gone."""
    try:
        stat = (process / "stat").read_bytes()
    except OSError:
        return None
    ticks = int(stat.rpartition(b")")[2].split()[_STARTTIME])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def sentence(found: list[Found], page: str, instance: str) -> str:
    """Return what to say of them, and what to do next."""
    if not found:
        watch = shell(["sudo", "tattle", "watch"], instance)
        return f"no model runtime runs here now; open the page: {page}; see what all others do: {watch}"
    first, *more = found
    parts = [f"{first.runtime.title} runs since {_clock(first.since)}{_seen(first.hosts)}"]
    if more:
        parts[0] += f", and {', '.join(one.runtime.title for one in more)} too"
    keep = ["--keep", _PULL] if any(one.name == _PULL for one in first.runtime.purposes) else []
    lock = shell(["sudo", "tattle", "block", first.runtime.name, *keep], instance)
    return "; ".join([*parts, f"open the page: {page}", f"lock it: {lock}"])


def _seen(hosts: frozenset[str]) -> str:
    if not hosts:
        return ""
    if len(hosts) == 1:
        return f", was seen talking to {escape(min(hosts))}"
    return f", was seen talking to {len(hosts)} hosts"


def _clock(at: float) -> str:
    day = "" if time.time() - at < _DAY_S else "%d %b "
    return datetime.fromtimestamp(at).astimezone().strftime(f"{day}%H:%M")
