"""What the daemon survives: each fault of its surroundings is one log line, and counted.

A fault belongs to a part (`docker`, `podman`, `cri`, `history`, …) and to an object of it (a socket, a file).
It is logged when it begins, counted each time (`tattle_errors_total{part}`), and its end is logged. The code
that meets it goes on without what could not be had, and tries again by a plan of its own.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

import structlog

from tracer.errors import TattleError
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger("tattle")

SURVIVED: Final = (OSError, ValueError, RuntimeError, TattleError)
"""What the surroundings do to a program: refused calls, damaged files, no more threads (RuntimeError)."""
_OPEN_MAX: Final = 256  # objects of which a fault is remembered
_WHY_MAX: Final = 200  # characters


class Faults:
    """Counts and tells faults; may be used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._open: dict[tuple[str, str], str] = {}

    def note(self, part: str, what: str, error: BaseException | str) -> None:
        """Count a fault of `what`, and log it if it is new: not before it has worked again."""
        why = escape(reason(error), _WHY_MAX)
        with self._lock:
            self._counts[part] = self._counts.get(part, 0) + 1
            known = (part, what) in self._open
            if len(self._open) < _OPEN_MAX or (part, what) in self._open:
                self._open[part, what] = why
        if not known:
            log.warning("out of reach, tried again", part=part, what=what, error=why)

    def well(self, part: str, what: str) -> None:
        """Note that `what` works; logged where it did not before."""
        if (part, what) not in self._open:
            return
        with self._lock:
            was = self._open.pop((part, what), None)
        if was is not None:
            log.info("works again", part=part, what=what, was=was)

    @contextlib.contextmanager
    def survive(self, part: str, what: str) -> Iterator[None]:
        """Do what follows; a fault that it meets is noted, and ends it, but nothing else."""
        try:
            yield
        except SURVIVED as error:
            self.note(part, what, error)
        else:
            self.well(part, what)

    def counts(self) -> dict[str, int]:
        """Return how many faults each part has had."""
        with self._lock:
            return dict(self._counts)

    def now(self) -> list[str]:
        """Return what does not work now, a line each."""
        with self._lock:
            return [f"{part}: {escape(what)}: {why}" for (part, what), why in self._open.items()]


def reason(error: BaseException | str) -> str:
    """Return an error in words: of a system call what the errno says, else the error's text or kind."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
