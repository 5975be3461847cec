"""The event log: one JSON object a line, to a file or a pipe, never at the price of what is watched.

A full disk or a reader that stops reading must not stop tattle: what does not fit is kept up to a bound, then
lines are dropped whole and counted by reason, and the next line that can be written says how many.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WAITING_MAX: Final = 1 << 20  # bytes
FULL: Final = "log_full"
BLOCKED: Final = "log_blocked"
CLOSED: Final = "log_closed"
_STDOUT: Final = 1


class EventLog:
    """Writes lines; `lost` is told (reason, count), `notice` makes the line that reports it."""

    def __init__(
        self, target: str, lost: Callable[[str, int], None], notice: Callable[[str, int], bytes]
    ) -> None:
        """Open `target` (a path, `-` for standard output) for appending; raises HostError."""
        self._target = target
        self._lost = lost
        self._notice = notice
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._unsaid: dict[str, int] = {}
        self._reason = BLOCKED
        self._fd = self._open()

    def _open(self) -> int:
        fd = os.dup(_STDOUT) if self._target == "-" else _open_path(Path(self._target))
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        return fd

    def reopen(self) -> None:
        """Open the path again, as logrotate(8) wants it; keeps the old file if that fails."""
        fresh = self._open()
        os.close(self._fd)
        self._fd = fresh

    def write(self, lines: Iterable[bytes]) -> None:
        """Take lines (each with its newline) and write what can be written without waiting."""
        for line in lines:
            self._take(line)
        self.flush()

    def _take(self, line: bytes) -> None:
        if self._bytes + len(line) > WAITING_MAX:
            self.flush()
        if self._bytes + len(line) > WAITING_MAX:
            self._lost(self._reason, 1)
            self._unsaid[self._reason] = self._unsaid.get(self._reason, 0) + 1
            return
        self._waiting.append(line)
        self._bytes += len(line)

    def flush(self) -> None:
        """Write what waits, as far as that goes without blocking."""
        while self._waiting and self._ready():
            chunk = self._chunk()
            try:
                written = os.write(self._fd, chunk)
            except OSError as error:
                self._failed(chunk, error)
                break
            self._reason = BLOCKED
            self._bytes -= written
            self._return(chunk[written:])
            if not self._waiting and self._unsaid:
                self._report()

    def _ready(self) -> bool:
        """Say whether a write of PIPE_BUF bytes would not block: poll(2) on a pipe promises that."""
        if self._regular:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _chunk(self) -> bytes:
        most = WAITING_MAX if self._regular else select.PIPE_BUF
        parts, size = [], 0
        while self._waiting and size < most:
            parts.append(self._waiting.popleft())
            size += len(parts[-1])
        joined = b"".join(parts)
        self._return(joined[most:])
        return joined[:most]

    def _return(self, rest: bytes) -> None:
        if rest:
            self._waiting.appendleft(rest)

    def _failed(self, chunk: bytes, error: OSError) -> None:
        """Keep the chunk, and remember why later lines will be dropped."""
        self._return(chunk)
        if error.errno == errno.EPIPE:
            self._reason = CLOSED
        elif error.errno != errno.EAGAIN:
            self._reason = FULL

    def _report(self) -> None:
        for reason, count in self._unsaid.items():
            line = self._notice(reason, count)
            self._waiting.append(line)
            self._bytes += len(line)
        self._unsaid.clear()

    def close(self) -> None:
        """Write what can be written and close."""
        self.flush()
        os.close(self._fd)


def _open_path(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        if path.is_fifo():
            # Opened for both ends, so that a reader may come later and go: fifo(7), Linux only.
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        return os.open(path, flags, 0o640)
    except OSError as error:
        raise HostError(
            f"event log {path} cannot be opened: {error.strerror}", "give a writable path with --log-file"
        ) from None
