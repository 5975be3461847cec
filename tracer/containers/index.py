"""What is known of this host's containers: one table for all engines, for all threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracer.containers.sources import Source
    from tracer.model.containers import Container, Place

_GONE_MAX: Final = 1024  # removed containers whose names late flows may still want
_EACH_MAX: Final = 65536  # containers of one engine


class Index:
    """Containers by their ids, each believed as far as its engine is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_source: dict[Source, dict[str, Container]] = {}
        self._gone: dict[tuple[int, str], Container] = {}

    def get(self, identifier: str, owner: int = 0) -> Container | None:
        """Return a container: of root's engines first, then of the user's whose cgroup it is."""
        with self._lock:
            for uid in dict.fromkeys((0, owner)):
                for source, known in self._by_source.items():
                    if source.owner == uid and identifier in known:
                        return known[identifier]
                if (uid, identifier) in self._gone:
                    return self._gone[uid, identifier]
        return None

    def at(self, place: Place) -> Container | None:
        """Return the container whose cgroup this is."""
        return self.get(place.id, place.owner)

    def all(self) -> list[Container]:
        """Return every container that is there."""
        with self._lock:
            return [one for known in self._by_source.values() for one in known.values()]

    def put(self, source: Source, container: Container) -> bool:
        """Take in what an engine tells of a container; False: that was known."""
        with self._lock:
            known = self._by_source.setdefault(source, {})
            if known.get(container.id) == container or len(known) >= _EACH_MAX:
                return False
            known[container.id] = container
            return True

    def drop(self, source: Source, identifier: str) -> bool:
        """Note that a container was removed; its name stays known for a while."""
        with self._lock:
            found = self._by_source.get(source, {}).pop(identifier, None)
            if found is not None:
                self._remember(source, found)
            return found is not None

    def replace(self, source: Source, containers: Iterable[Container]) -> bool:
        """Take in all of an engine's containers; False: nothing has changed."""
        fresh = {one.id: one for one, _ in zip(containers, range(_EACH_MAX), strict=False)}
        with self._lock:
            before = self._by_source.get(source, {})
            for identifier in before.keys() - fresh.keys():
                self._remember(source, before[identifier])
            self._by_source[source] = fresh
            return before != fresh

    def _remember(self, source: Source, container: Container) -> None:
        while len(self._gone) >= _GONE_MAX:
            del self._gone[next(iter(self._gone))]
        self._gone[source.owner, container.id] = container
