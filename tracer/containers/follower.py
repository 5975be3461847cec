"""Follows one engine by its events, in a thread of its own: an engine that hangs holds nothing else up."""

from __future__ import annotations

import threading
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.containers.index import Index
    from tracer.containers.sources import Source
    from tracer.host.faults import Faults
    from tracer.model.containers import Container

QUIET_S: Final = 60.0
"""After so long without an event an engine is asked for all again: it may hang, or have lost some."""
RETRY_S: Final = 0.25
RETRY_MAX_S: Final = 8.0
FAULTS: Final = (OSError, ValueError, RuntimeError)  # of the last: no more threads, hostile nesting of JSON


class State(Enum):
    """Whether an engine answers."""

    NEW = 0
    LIVE = 1
    MUTE = 2


class Follower:
    """One engine: `state` says whether it answers; what it tells stands in the index."""

    def __init__(
        self,
        source: Source,
        index: Index,
        faults: Faults,
        changed: Callable[[], None],
        quiet_s: float = QUIET_S,
    ) -> None:
        self.source = source
        self.api = source.api()
        self.state = State.NEW
        self.listed = threading.Event()
        self._index = index
        self._faults = faults
        self._changed = changed
        self._quiet_s = quiet_s
        self._wait_s = RETRY_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine {source.where}"[:15], daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End, at the latest when the engine is heard of again; nothing waits for that."""
        self._stop.set()

    def about(self, identifier: str) -> Container | None:
        """Ask for one container, and keep the answer; None: it is another's. Raises what FAULTS lists."""
        try:
            found = self.api.about(identifier)
        except FAULTS as error:
            self.failed(error)
            raise
        self._works()
        if found is not None and self._index.put(self.source, found):
            self._changed()
        return found

    def list(self) -> None:
        """Ask for all containers, and keep the answer. Raises what FAULTS lists."""
        if self._index.replace(self.source, self.api.listing()):
            self._changed()
        self._works()
        self.listed.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except TimeoutError as error:
                if self.state is not State.LIVE:
                    self.failed(error)
            except FAULTS as error:
                self.failed(error)
            if self.state is State.MUTE:
                self._stop.wait(self._wait_s)
                self._wait_s = min(2 * self._wait_s, RETRY_MAX_S)

    def _follow(self) -> None:
        self.state = State.NEW if self.state is State.MUTE else self.state
        for identifier, container in self.api.changes(self._quiet_s):
            if self._stop.is_set():
                return
            if not identifier:
                self.list()
            elif self._take(identifier, container):
                self._changed()

    def _take(self, identifier: str, container: Container | None) -> bool:
        if container is None:
            return self._index.drop(self.source, identifier)
        return self._index.put(self.source, container)

    def failed(self, error: BaseException) -> None:
        """Note that it does not answer."""
        self.state = State.MUTE
        self.listed.set()
        self._faults.note(self.source.family.value, self.source.where, error)

    def _works(self) -> None:
        fresh = self.state is not State.LIVE
        self.state = State.LIVE
        self._wait_s = RETRY_S
        if fresh:
            self._faults.well(self.source.family.value, self.source.where)
            self._changed()
