"""inotify(7), which Python's library lacks: word of files that are replaced in a directory."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

# include/uapi/linux/inotify.h
_CLOSE_WRITE, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF = 0x8, 0x80, 0x100, 0x200, 0x400
_WANTED: Final = _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF
_TAKEN: Final = 1 << 16  # bytes of notes that are read at once


class Inotify:
    """One descriptor of inotify; OSError where the kernel gives none, or a directory cannot be watched."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._checked(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """Return the descriptor, for select(2)."""
        return self._fd

    def watch(self, directory: Path) -> None:
        """Have it told when a file in a directory is made, written or replaced."""
        self._checked(self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _WANTED))

    def take(self) -> None:
        """Forget what has been told."""
        try:
            while os.read(self._fd, _TAKEN):
                pass
        except BlockingIOError:
            return

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
