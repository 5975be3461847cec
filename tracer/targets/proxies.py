"""The proxies that a target's processes are told to use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import TattleError
from tracer.host.cgroups import members
from tracer.runtimes.profiles import runtimes
from tracer.runtimes.proxies import Proxy, of_environment, proxies
from tracer.targets.finder import parse

if TYPE_CHECKING:
    from tracer.targets.finder import Finder


__all__ = ["Proxy", "of_command", "of_target"]


def of_command() -> tuple[Proxy, ...]:
    """Return the proxies of a command that gets this process's environment."""
    return of_environment(dict(os.environ), Path("/proc/self"))


def of_target(finder: Finder, text: str) -> tuple[Proxy, ...]:
    """Return the proxies of all that a selector means now; none where it means nothing yet."""
    try:
        cgroups = finder.find(parse(text))
    except TattleError:
        cgroups = ()
    pids = {pid for path in cgroups for pid in members(finder.root / path.lstrip("/"))}
    if (runtime := runtimes().get(text)) is not None:
        pids |= set(finder.running(runtime))
    return proxies((finder.proc / pid for pid in sorted(pids, key=int)), finder.engines)
