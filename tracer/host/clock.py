"""The wall clock's time of the boot clock's zero: the kernel stamps by CLOCK_BOOTTIME, people read UTC."""

from __future__ import annotations

import time
from typing import Final

_JITTER_NS: Final = 20_000_000  # two readings differ by what runs between them; a step of the clock is more


class BootClock:
    """Keeps the offset steady, so that the same instant is printed the same twice, and follows steps."""

    def __init__(self) -> None:
        self._boot_ns = self._read()

    @staticmethod
    def _read() -> int:
        return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    @property
    def boot_ns(self) -> int:
        """Nanoseconds since the epoch at which CLOCK_BOOTTIME read zero."""
        fresh = self._read()
        if abs(fresh - self._boot_ns) > _JITTER_NS:
            self._boot_ns = fresh
        return self._boot_ns
