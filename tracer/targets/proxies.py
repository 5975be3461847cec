"""The proxies that a target's processes are told to use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import TattleError
from tracer.host.cgroups import members
from tracer.runtimes.profiles import runtimes
from tracer.runtimes.proxies import Proxy, beside, of_environment, of_unit, proxies
from tracer.runtimes.units import UNIT_PATHS
from tracer.targets.finder import Kind, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracer.targets.finder import Finder


__all__ = ["Proxy", "of_command", "of_target"]


def of_command() -> tuple[Proxy, ...]:
    """Return the proxies of a command that gets this process's environment."""
    return of_environment(dict(os.environ), Path("/proc/self"))


def of_target(finder: Finder, text: str, places: Iterable[Path] = UNIT_PATHS) -> tuple[Proxy, ...]:
    """Return the proxies of all that a selector means now, and of its services' files (in `places`)."""
    selector = parse(text)
    try:
        cgroups = finder.find(selector)
    except TattleError:
        cgroups = ()
    pids = {pid for path in cgroups for pid in members(finder.root / path.lstrip("/"))}
    units: tuple[str, ...] = (selector.value,) if selector.kind is Kind.UNIT else ()
    if (runtime := runtimes().get(text)) is not None:
        pids |= set(finder.running(runtime))
        units = runtime.find.units
    now = proxies((finder.proc / pid for pid in sorted(pids, key=int)), finder.engines)
    return beside(now, (one for unit in units for one in of_unit(unit, tuple(places))))
