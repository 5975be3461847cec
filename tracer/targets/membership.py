"""The targets that one engine watches, told to the kernel, and told apart in what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from tracer.bpf.maps.members import MemberMaps
from tracer.errors import HostError
from tracer.targets.finder import Finder, Kind, Target, TargetBook, parse
from tracer.targets.kernel import Membership
from tracer.targets.marks import Sweep
from tracer.targets.meaning import executes, meaning

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from tracer.bpf.engine import Engine
    from tracer.model.process import ProcessInfo

log = structlog.get_logger("tattle")

_PROCESSES: Final = frozenset({Kind.PROFILE, Kind.EXE, Kind.PID})
"""Selectors that mean processes, whatever cgroup they are in."""


class Targeting:
    """The targets of one engine; `apply` makes the kernel's tables say what it is given."""

    def __init__(self, engine: Engine, finder: Finder, book: TargetBook) -> None:
        self._engine = engine
        self._finder = finder
        self._book = book
        self.targets: tuple[Target, ...] = ()

    def find(self, texts: Iterable[str], *, absent_ok: bool) -> tuple[Target, ...]:
        """Resolve selectors; one that is absent is an error, or awaited at the place it will have."""
        found = []
        for text in dict.fromkeys(texts):
            selector = parse(text)
            try:
                cgroups = self._finder.find(selector)
            except HostError as error:
                if not absent_ok or not self._finder.is_awaited(selector):
                    raise
                cgroups = self._finder.expected(selector)
                log.warning("target is awaited", target=text, error=error.message)
            found.append(Target(text, self._book.number(text), cgroups))
        return tuple(found)

    def apply(self, targets: tuple[Target, ...], policies: tuple[Target, ...] = ()) -> None:
        """Let these be the targets, and no others; what is in several is in each of them."""
        members = Membership(self._engine, self._book)
        members.name(
            {one.id: meaning(parse(one.selector), one.cgroups) for one in (*targets, *policies)}, only=True
        )
        named = {one.selector for one in policies}
        self.targets = (*(one for one in targets if one.selector not in named), *policies)

    def settle(self) -> None:
        """Decide on processes that the kernel half could not decide on."""
        Membership(self._engine, self._book).settle_processes()

    def renew(self) -> None:
        """Have every socket asked anew whose it is."""
        Membership(self._engine, self._book).renew()

    def members(self, target: Target) -> int:
        """Count what matches a target now: its outermost cgroups, and its processes elsewhere."""
        return len(Membership(self._engine, self._book).shown(target.id))

    def since_ns(self, target: Target) -> int:
        """Return since when all that matches a target is known (CLOCK_BOOTTIME, ns); 0: it is not."""
        return Membership(self._engine, self._book).tables.named().get(target.id, 0) * 10**9

    def processes(self, target: Target) -> int:
        """Count the processes that a target has now."""
        return len(Membership(self._engine, self._book).processes(target.id))

    def chooser(self, texts: list[str]) -> Callable[[ProcessInfo | None], bool] | None:
        """Give a test for processes of these targets, registered or not; None for no targets at all."""
        if not texts:
            return None
        names = {one.selector for one in self.targets}
        strangers = [text for text in texts if text not in names]
        selectors = [parse(text) for text in strangers]
        paths = [path for one in selectors for path in self._finder.own(one)]
        sweep = Sweep(MemberMaps(self._engine.maps, self._engine.abi), self._finder.proc)
        pids = {pid for one in selectors if one.kind in _PROCESSES for pid in sweep.running(meaning(one))}
        return chooser(set(texts), paths, pids)


def same_program(texts: Iterable[str]) -> Callable[[ProcessInfo | None], bool] | None:
    """Return a test for processes in no target that execute what these targets mean; None: these are none."""
    meanings = [one for text in texts if (one := meaning(parse(text))).programs]

    def is_same(who: ProcessInfo | None) -> bool:
        return who is not None and who.target is None and any(executes(one, who.exe) for one in meanings)

    return is_same if meanings else None


def chooser(
    names: set[str], paths: list[str], pids: Collection[int] = ()
) -> Callable[[ProcessInfo | None], bool]:
    """Give a test for processes in a target of such a name, in such a cgroup or below, or of such an id."""
    below = tuple(f"{path}/" for path in paths)

    def wants(who: ProcessInfo | None) -> bool:
        if who is None:
            return False
        if who.pid in pids:
            return True
        return (
            who.target in names
            or not names.isdisjoint(who.targets)
            or bool(below and f"{who.cgroup}/".startswith(below))
        )

    return wants
