"""What history knows of a window of time and a target: read for `report` and `suggest`, daemon on or off."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.errors import TattleError, UsageError
from tracer.history.reader import open_history
from tracer.history.store import FILE
from tracer.history.timespec import window
from tracer.host.cgroups import BPFFS, cgroup2_root, instance_paths
from tracer.host.resolv_conf import resolvers
from tracer.model.records import timestamp
from tracer.runtimes.profiles import runtimes
from tracer.targets.finder import Finder, Kind, Target, parse
from tracer.targets.meaning import Meaning, executes, meaning

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.history.reader import Gap, Seen
    from tracer.runtimes.profiles import Runtime
    from tracer.targets.finder import Selector


_PLACES: Final = frozenset({Kind.UNIT, Kind.CGROUP})
"""Selectors that each cell tells of by itself, whether they were targets then or not."""


class Past(NamedTuple):
    """Cells of a window, and how whole they are; `runtimes` by target: whose profile explains them."""

    instance: str
    target: str | None
    since_ns: int
    until_ns: int
    cells: list[Seen]
    gaps: list[Gap]
    losses: dict[str, int]
    last_look_ns: int | None
    runtimes: dict[str, Runtime]
    same: tuple[Seen, ...] = ()
    """Cells of the same programs that were in no target then,"""
    known_since: str | None = None
    """and since when all that matches the target is known; None: that is not known now."""


def look_back(instance: str, target: str | None, since: str, until: str | None) -> Past:
    """Read what was seen between two times, of one target or of everything.

    Raises UsageError for what is no time or target, HostError where there is no history.
    """
    selector = parse(target) if target is not None else None
    since_ns, until_ns = window(since, until, time.time_ns())
    wanted, is_same = _chooser(selector), _same_program(selector)
    with open_history(instance_paths(instance, BPFFS).state / FILE) as history:
        seen = list(history.seen(since_ns, until_ns))
        gaps, losses = history.gaps(since_ns, until_ns), history.losses(since_ns, until_ns)
        last = history.last_look_ns()
    cells = [cell for cell in seen if wanted(cell)]
    same = tuple(cell for cell in seen if is_same(cell) and not wanted(cell))
    if selector is not None and selector.kind is Kind.PID and not cells:
        raise UsageError(
            f"the history knows no process {selector.value}: it keeps no ids, which are used again",
            "name its place: unit:NAME, cgroup:/PATH or container:NAME",
        )
    names = {cell.target for cell in cells if cell.target is not None} | ({target} if target else set())
    known = {name: runtime for name in names if (runtime := _runtime(name)) is not None}
    by_place = selector is None or selector.kind in _PLACES
    since_known = timestamp(since_ns) if by_place else None
    return Past(instance, target, since_ns, until_ns, cells, gaps, losses, last, known, same, since_known)


def _same_program(selector: Selector | None) -> Callable[[Seen], bool]:
    """Return a test for cells of no target whose program is what a target means."""
    what = meaning(selector) if selector is not None else Meaning()
    return lambda cell: cell.target is None and executes(what, cell.exe)


def asked(target: str) -> frozenset[bytes]:
    """Give the resolvers that a target's rules by name would let it ask, 16 bytes each."""
    selector, finder = parse(target), Finder(cgroup2_root())
    try:
        cgroups = finder.find(selector)
    except TattleError:  # it does not run now
        cgroups = ()
    return frozenset(resolvers(finder.root / path.lstrip("/") for path in cgroups))


def _chooser(selector: Selector | None) -> Callable[[Seen], bool]:
    """Give a test for cells of a target: counted as such, or of what it names today."""
    if selector is None:
        return lambda _: True
    text, value = selector.text, selector.value
    below = f"{value}/"
    if selector.kind is Kind.PROFILE:
        find = runtimes()[value].find
        return lambda cell: (
            cell.target == text or cell.unit in find.units or cell.container in find.containers
        )
    tests: dict[Kind, Callable[[Seen], bool]] = {
        Kind.UNIT: lambda cell: cell.unit == value,
        Kind.CONTAINER: lambda cell: cell.container in (value, value[:12]),
        Kind.CGROUP: lambda cell: f"{cell.cgroup}/".startswith(below),
        Kind.PID: lambda cell: False,  # noqa: ARG005 - it may be another process's number by now
        Kind.EXE: lambda cell: False,  # noqa: ARG005 - only the kernel tells a program from its clients
    }
    fits = tests[selector.kind]
    return lambda cell: cell.target == text or fits(cell)


def _runtime(text: str) -> Runtime | None:
    """Give the runtime that a target is, as far as this can be told today."""
    try:
        selector = parse(text)
        if selector.kind is Kind.PROFILE:
            return runtimes()[selector.value]
        finder = Finder(cgroup2_root())
        try:
            cgroups = finder.find(selector)
        except TattleError:
            cgroups = finder.expected(selector)
        return finder.runtime(Target(text, 0, cgroups))
    except TattleError:
        return None
