"""Targets told to the kernel: by the ids of cgroups that exist, by path for those that are yet to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from tracer.errors import HostError
from tracer.host.cgroups import members
from tracer.targets.finder import Finder, Target, TargetBook, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tracer.bpf.maps.tables import Maps
    from tracer.model.process import ProcessInfo
    from tracer.model.rows import CgroupRow

log = structlog.get_logger("tattle")


class Targeting:
    """The targets of one engine; `apply` makes the kernel's tables say what it is given."""

    def __init__(self, maps: Maps, finder: Finder, book: TargetBook) -> None:
        self._maps = maps
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
                cgroups = self._finder.expected(selector) if absent_ok else ()
                if not absent_ok or not cgroups:
                    raise
                log.warning("target is awaited", target=text, cgroups=", ".join(cgroups), error=error.message)
            found.append(Target(text, self._book.number(text), cgroups))
        return tuple(found)

    def apply(self, targets: tuple[Target, ...], policies: tuple[Target, ...] = ()) -> None:
        """Put cgroups into these targets and out of all others; the nearest ancestor decides.

        Where two have the same cgroup, the one with a policy has it.
        """
        wanted = {_raw(path): one.id for one in (*targets, *policies) for path in one.cgroups}
        present = self._maps.target_paths()
        for path, number in wanted.items():
            if present.get(path) != number:
                self._maps.set_target(path, number)
        for path in present.keys() - wanted.keys():
            self._maps.set_target(path, 0)
        named = {one.selector for one in policies}
        self.targets = (*(one for one in targets if one.selector not in named), *policies)
        spread(self._maps)

    def processes(self, target: Target) -> int:
        """Count the processes that a target has now."""
        return sum(len(members(self._finder.root / path.lstrip("/"))) for path in target.cgroups)

    def chooser(self, texts: list[str]) -> Callable[[ProcessInfo | None], bool] | None:
        """Give a test for processes of these targets, registered or not; None for no targets at all."""
        if not texts:
            return None
        names = {one.selector for one in self.targets}
        strangers = [text for text in texts if text not in names]
        paths = [path for text in strangers for path in self._finder.find(parse(text))]
        return chooser(set(texts), paths)


def chooser(names: set[str], paths: list[str]) -> Callable[[ProcessInfo | None], bool]:
    """Give a test for processes in a target of such a name, or in such a cgroup or below."""
    below = tuple(f"{path}/" for path in paths)

    def wants(who: ProcessInfo | None) -> bool:
        if who is None:
            return False
        return who.target in names or f"{who.cgroup}/".startswith(below) if below else who.target in names

    return wants


def spread(maps: Maps) -> None:
    """Put every cgroup that is known into the target that the paths say.

    A cgroup that is made meanwhile below one not reached yet inherits what that one had: go again.
    """
    wanted = maps.target_paths()
    while sum(_moved(maps, row, nearest(row.path, wanted)) for row in maps.cgroups()):
        pass


def _moved(maps: Maps, row: CgroupRow, target: int) -> bool:
    return row.target != target and maps.set_target(row.id, target)


def _raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def nearest(path: bytes, wanted: Mapping[bytes, int]) -> int:
    """Give the target of a cgroup: of its own path, else of the nearest one above that has one; 0: none."""
    while path and path != b"/":
        if path in wanted:
            return wanted[path]
        path = path.rpartition(b"/")[0]
    return 0
