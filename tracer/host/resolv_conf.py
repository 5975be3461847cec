"""The resolvers that a target may ask for the names that its rules allow: those of its host, and its own.

A name is as true as who tells it. A program that could choose whom to ask would be given any address that it
likes; so it may ask whom the host asks, and whom its own /etc/resolv.conf names where it sees another one (a
container).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.model.scope import packed

if TYPE_CHECKING:
    from collections.abc import Iterable

_FILE: Final = "etc/resolv.conf"
_STUBS: Final = ("127.0.0.53", "127.0.0.54")  # systemd-resolved.service(8)
_DEFAULT: Final = "127.0.0.1"  # resolv.conf(5): where no nameserver is named
_SIZE_MAX: Final = 1 << 16

HOST, OWN = 1, 2
"""Who names a resolver; in sums of both."""


class Resolvers(NamedTuple):
    """Addresses, 16 bytes each, with who names them; `certain` says of whom all could be read."""

    named: dict[bytes, int]
    certain: int


def resolvers(cgroups: Iterable[Path] = ()) -> tuple[bytes, ...]:
    """Give the addresses, 16 bytes each, that processes of these cgroup directories may ask."""
    return tuple(look(cgroups).named)


def look(cgroups: Iterable[Path] = (), root: Path = Path("/"), proc: Path = Path("/proc")) -> Resolvers:
    """Find out whom processes of these cgroup directories may ask, and who says so.

    `root` is the host's. What cannot be read now (another user's, or nobody is there) is no reason to forget.
    """
    named: dict[bytes, int] = {}
    texts, certain = _nameservers(root / _FILE), HOST | OWN
    if texts is None:
        certain &= ~HOST
    _note(named, HOST, (*_STUBS, *(texts or ())))
    for directory in cgroups:
        texts = _own(directory, root, proc)
        if texts is None:
            certain &= ~OWN
        _note(named, OWN, texts or ())
    return Resolvers(named, certain)


def _note(named: dict[bytes, int], by: int, texts: Iterable[str]) -> None:
    for text in texts:
        address = packed(text.partition("%")[0])
        if address is not None:
            named[address] = named.get(address, 0) | by


def _own(directory: Path, root: Path, proc: Path) -> list[str] | None:
    """Give whom a process of a cgroup asks beside the host: those of one see the same files, as a rule."""
    try:
        first, _, _ = (directory / "cgroup.procs").read_text().partition("\n")
    except OSError:
        return None
    path = proc / first / "root" / _FILE
    if not first or _same(path, root / _FILE):
        return [] if first else None
    found = _nameservers(path)
    return found if (proc / first).exists() else None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _nameservers(path: Path) -> list[str] | None:
    """Read a resolv.conf(5); None where nobody can tell what is in it."""
    try:
        with path.open("rb") as file:
            lines = file.read(_SIZE_MAX).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return [_DEFAULT]
    except OSError:
        return None
    words = [line.split() for line in lines]
    return [one[1] for one in words if len(one) > 1 and one[0] == "nameserver"] or [_DEFAULT]
