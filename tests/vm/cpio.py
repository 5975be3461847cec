"""Write initramfs archives in the `newc` cpio format.

The format: Documentation/driver-api/early-userspace/buffer-format.rst.

Written here, since the format is a page long and this way needs neither root (for /dev/console) nor a tool.
The kernel takes several archives one after the other: what changes seldom can be kept as it is.
"""

import stat
from pathlib import PurePosixPath

ALIGN = 4


class Archive:
    """Files of an initramfs by path; parents are made as needed and later files replace earlier ones."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory, with all that is above it."""
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) != "." and str(parent) not in self._entries:
                self._entries[str(parent)] = (stat.S_IFDIR | 0o755, b"", (0, 0))
        self._entries.setdefault(path, (stat.S_IFDIR | mode, b"", (0, 0)))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(path, stat.S_IFREG | stat.S_IMODE(mode), data)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link to `target`."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(path, stat.S_IFCHR | 0o600, b"", (major, minor))

    def content(self) -> bytes:
        """Give the archive as bytes, padded so that another one may follow."""
        parts = [
            _record(path, number, mode, data, device)
            for number, (path, (mode, data, device)) in enumerate(self._entries.items(), start=1)
        ]
        return b"".join([*parts, _record("TRAILER!!!", 0, 0, b"", (0, 0))])

    def _add(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self.directory(str(PurePosixPath(path).parent))
        self._entries[path] = (mode, data, device)


def _record(path: str, number: int, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGN)
