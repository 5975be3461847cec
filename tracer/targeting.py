"""Targets told to the kernel: by the ids of cgroups that exist, by path for those that are yet to be made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from exporters.prometheus import TargetState
from tracer.errors import HostError
from tracer.targets import Finder, Target, TargetBook, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tracer.identity import ProcessInfo
    from tracer.maps import Maps

log = logging.getLogger("tattle")
OBSERVE = "observe"


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
                log.warning("target %s: %s; awaited at %s", text, error.message, ", ".join(cgroups))
            found.append(Target(text, self._book.number(text), cgroups))
        return tuple(found)

    def apply(self, targets: tuple[Target, ...]) -> None:
        """Put cgroups into these targets and out of all others; the nearest ancestor decides."""
        wanted = {path.encode("utf-8", "surrogateescape"): one.id for one in targets for path in one.cgroups}
        for old in self.targets:
            for path in old.cgroups:
                raw = path.encode("utf-8", "surrogateescape")
                if raw not in wanted:
                    self._maps.set_target(raw, 0)
        for raw, number in wanted.items():
            self._maps.set_target(raw, number)
        self.targets = targets
        # A cgroup that is made below one we have not reached yet inherits what that one had: go again.
        while self._spread(wanted):
            pass

    def _spread(self, wanted: dict[bytes, int]) -> int:
        changed = 0
        for row in self._maps.cgroups():
            target = _nearest(row.path, wanted)
            if row.target != target:
                changed += self._maps.set_target(row.id, target)
        return changed

    def states(self) -> list[TargetState]:
        """Tell how many processes each target has now."""
        root = self._finder.root
        return [
            TargetState(
                one.selector,
                OBSERVE,
                enforced=False,
                processes=sum(_count(root, path) for path in one.cgroups),
            )
            for one in self.targets
        ]

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


def _nearest(path: bytes, wanted: dict[bytes, int]) -> int:
    while path and path != b"/":
        if path in wanted:
            return wanted[path]
        path = path.rpartition(b"/")[0]
    return 0


def _count(root: Path, path: str) -> int:
    """Count the processes of a cgroup and those below it (cgroups(7): cgroup.procs)."""
    return sum(_lines(procs) for procs in (root / path.lstrip("/")).rglob("cgroup.procs"))


def _lines(procs: Path) -> int:
    try:
        return procs.read_bytes().count(b"\n")
    except OSError:  # gone meanwhile, or threaded: then its processes are listed further up
        return 0
