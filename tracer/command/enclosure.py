"""The cgroup of a command that is confined: whoever runs in it stays in it, and ends with the command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from typing import TYPE_CHECKING, Final, Self

from tracer.errors import HostError
from tracer.host.cgroups import members

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_NAME: Final = "tattle-run-"
_PLACES: Final = 1000
_GRACE_S: Final = 2.0  # for what the command has left running, between SIGTERM and SIGKILL
_KILL_S: Final = 10.0  # a process that is killed may take so long to be gone
_PAUSE_S: Final = 0.02


class Enclosure:
    """A fresh cgroup that its members cannot leave; it, and what still runs in it, is gone at the end.

    Names are used again, so that the book of targets does not grow with every command. The lock on its
    directory says that it is in use; one whose owner was killed is used again when nothing runs in it.
    """

    def __init__(self, root: Path, own: str | None, uid: int) -> None:
        """Make it below the caller's cgroup `own`, as near as the user `uid` may not write."""
        reason: str | None = "too many commands run"
        for parent in dict.fromkeys((_beyond(root, own or "/", uid), "/")):
            for place in range(1, _PLACES):
                path = f"{parent.rstrip('/')}/{_NAME}{place}"
                directory = root / path.lstrip("/")
                try:
                    lock = _take(directory)
                except OSError as error:
                    reason = error.strerror
                    break
                if lock is not None:
                    self.path, self.directory, self._lock = path, directory, lock
                    return
        raise HostError(f"no cgroup can be made below {root}: {reason}", "run it with sudo, on the host")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it, and those that were made below."""
        for directory in sorted(self.directory.glob("**/"), reverse=True):
            with contextlib.suppress(OSError):  # it was not to be killed: it stays confined
                directory.rmdir()
        os.close(self._lock)

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """End what still runs in it at the end of the block."""
        try:
            yield
        finally:
            self._send(signal.SIGTERM, _GRACE_S)
            self._send(signal.SIGKILL, _KILL_S)

    def _send(self, number: signal.Signals, patience: float) -> None:
        """Send a signal to all, also to what is forked meanwhile, until they are gone or patience ends."""
        deadline = time.monotonic() + patience
        told: set[str] = set()
        while (here := members(self.directory)) and time.monotonic() < deadline:
            for pid in here:
                if number == signal.SIGKILL or pid not in told:
                    _signal(int(pid), number)
            told.update(here)
            time.sleep(_PAUSE_S)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _take(directory: Path) -> int | None:
    """Make a directory ours, and return its lock; None where it is in use. OSError where none can be made."""
    directory.mkdir(exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not members(directory) and os.fstat(lock).st_ino == directory.stat().st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _beyond(root: Path, own: str, uid: int) -> str:
    """Return the deepest cgroup above a process, or its own, below which the user may move nothing.

    A user's service manager has a subtree of its own (systemd's Delegate=): who may write both ends and what
    is above both may move a process (Documentation/admin-guide/cgroup-v2.rst, "Delegation Containment").
    """
    found = "/"
    for path in _downwards(own):
        try:
            status = (root / path.lstrip("/")).stat()
        except OSError:
            break
        if uid and (status.st_uid == uid or status.st_mode & 0o022):
            break
        found = path
    return found


def _downwards(path: str) -> Iterator[str]:
    at = ""
    for part in path.strip("/").split("/"):
        at = f"{at}/{part}"
        yield at
