"""All container engines of this host as one: who a container is, now or as soon as an engine can tell.

The daemon follows them (`start`): a container is known when it is made, before its cgroup is. Commands look
once (`look`). No question here waits for an engine but `look` and `decide`, and both have a bound.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Final

from tracer.containers.follower import FAULTS, QUIET_S, Follower, State
from tracer.containers.index import Index
from tracer.containers.sources import Source, Sources
from tracer.host.faults import Faults
from tracer.model.containers import Container, Family, places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tracer.model.containers import Place

LOOK_S: Final = 3.0
"""How long a command waits for engines."""
_DISCOVER_S: Final = 1.0
_DEEP_EVERY: Final = 10  # times: /proc is read so rarely, and when a candidate waits
_AGAIN_S: Final = 0.05  # engines are looked for at most so often when candidates wait


class Undecided(Exception):  # noqa: N818 - no error: an answer that is not there yet
    """No engine can tell whose cgroup it is: one of that kind does not answer, or none knows it."""


class ContainerEngines:
    """The engines that are found, each with a follower; what they tell stands in `index`."""

    def __init__(
        self, sources: Sources | None = None, faults: Faults | None = None, quiet_s: float = QUIET_S
    ) -> None:
        self.faults = faults or Faults()
        self.index = Index()
        self._sources = sources or Sources(self.faults)
        self._quiet_s = quiet_s
        self.generation = 0
        self._told: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._followers: dict[Source, Follower] = {}
        self._hidden: set[Family] = set()
        self._follows = self._looked = False
        self._found_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engines", daemon=True)

    # Names: never waits, but for the one look of a command

    def at(self, place: Place) -> Container | None:
        """Return the container whose cgroup this is; None: not known, or not yet."""
        if place.named:
            return Container(place.id, place.id)
        self._look_once()
        return self.index.at(place)

    def of(self, cgroup: str) -> Container | None:
        """Return the innermost container that a cgroup path is in, if an engine knows it."""
        place = next(places(cgroup), None)
        return self.at(place) if place else None

    def all(self) -> list[Container]:
        """Return every container that an engine tells of."""
        self._look_once()
        return self.index.all()

    def mute(self) -> list[str]:
        """Name the engines that are there and do not answer."""
        with self._lock:
            return [one.source.where for one in self._followers.values() if one.state is State.MUTE]

    # Commands

    def look(self, wait_s: float = LOOK_S) -> None:
        """Ask all engines for their containers, all at once, and wait for the answers, at most `wait_s`."""
        self._looked = True
        self._discover()
        asked = list(self._followers.values())
        for one in asked:
            threading.Thread(target=_listed, args=(one,), daemon=True).start()
        until = time.monotonic() + wait_s
        for one in asked:
            if not one.listed.wait(max(until - time.monotonic(), 0.0)):
                self.faults.note(one.source.family.value, one.source.where, TimeoutError("no answer"))

    def _look_once(self) -> None:
        if not self._follows and not self._looked:
            self.look()

    # The daemon

    def start(self, changed: Callable[[], None]) -> None:
        """Follow all engines, and those that appear later; `changed` is called by any thread."""
        self._told = changed
        with self._lock:
            self._follows = True
            for one in self._followers.values():
                one.start()
        self._thread.start()

    def close(self) -> None:
        """Follow no more."""
        self._stop.set()
        with self._lock:
            for one in self._followers.values():
                one.stop()

    def _run(self) -> None:
        for times in itertools.count():
            self._discover(deep=times % _DEEP_EVERY == 0)
            if self._stop.wait(_DISCOVER_S):
                return

    def _discover(self, *, deep: bool = True) -> None:
        """Find engines that have appeared, and let go of those that are gone."""
        with self._lock:
            self._found_at = time.monotonic()
            with self.faults.survive("engines", "looking for engines"):
                self._take(*self._sources.find(deep=deep))

    def _take(self, found: set[Source], hidden: set[Family]) -> None:
        self._hidden = hidden
        for source in self._followers.keys() - found:
            self._followers.pop(source).stop()
            self.index.replace(source, ())
        for source in found - self._followers.keys():
            one = Follower(source, self.index, self.faults, self._changed, self._quiet_s)
            self._followers[source] = one
            if self._follows:
                one.start()

    def _changed(self) -> None:
        self.generation += 1  # what was not known may be now
        self._told()

    def decide(self, place: Place) -> Container | None:
        """Ask whose cgroup this is; None: no container's. May wait for engines. Raises Undecided."""
        known = self.at(place)
        if known is not None:
            return known
        with self._lock:
            due = time.monotonic() - self._found_at > _AGAIN_S
        if due:
            self._discover()
        with self._lock:
            asked = [one for one in self._followers.values() if _may_know(one.source, place)]
            sure = place.family not in self._hidden and not (place.family is Family.ANY and self._hidden)
        found, answered = self._asked(asked, place.id)
        if found is not None:
            return found
        if not answered or not sure or place.family is not Family.ANY:
            raise Undecided(place.path)
        return None

    @staticmethod
    def _asked(followers: Iterable[Follower], identifier: str) -> tuple[Container | None, bool]:
        """Return what one of them knows, and whether all have answered. Those that answer are asked first."""
        sure = True
        for one in sorted(followers, key=lambda each: each.state is State.MUTE):
            try:
                found = one.about(identifier)
            except FAULTS:
                sure = False
                continue
            if found is not None:
                return found, True
        return None, sure


def _may_know(source: Source, place: Place) -> bool:
    return place.family in (source.family, Family.ANY) and source.owner in (0, place.owner)


def _listed(one: Follower) -> None:
    try:
        one.list()
    except FAULTS as error:
        one.failed(error)
