"""The hosts file's names by address: read when it has changed, looked at no more than once a second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from tracer.model.scope import Scope, packed, scope
from tracer.model.text import dotted

PATH: Final = Path("/etc/hosts")  # hosts(5); that of this host: a container's own is not read
LOOK_S: Final = 1.0
SIZE_MAX: Final = 16 << 20  # a file that blocks advertisers has some MiB
ADDRESSES_MAX: Final = 4096


class HostsFile:
    """Names by address of 16 bytes; addresses of this host itself have none."""

    def __init__(self, path: Path = PATH) -> None:
        self._path = path
        self._next = 0.0
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[bytes, tuple[str, ...]] = {}

    def __call__(self, address: bytes) -> tuple[str, ...]:
        """Give the names of an address, first the one that stands first."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK_S
            self._look()
        return self._names.get(address, ())

    def _look(self) -> None:
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                with self._path.open("rb") as file:
                    self._names = parse(file.read(SIZE_MAX))
        except OSError:
            seen, self._names = None, {}
        self._seen = seen


def parse(text: bytes) -> dict[bytes, tuple[str, ...]]:
    """Read the lines of a hosts file (hosts(5)); those that are none are passed over."""
    found: dict[bytes, dict[str, None]] = {}
    for line in text.split(b"\n"):
        words = line.split(b"#", 1)[0].split()
        where = packed(words[0].decode("ascii", "replace")) if len(words) > 1 else None
        if where is None or scope(where) in (Scope.LOOPBACK, Scope.MULTICAST):
            continue
        if where in found or len(found) < ADDRESSES_MAX:
            names = (dotted(word) for word in words[1:])
            found.setdefault(where, {}).update((name, None) for name in names if name)
    return {where: tuple(names) for where, names in found.items()}
