"""The resolvers that a target may ask for the names that its rules allow: those of its host, and its own.

A name is as true as who tells it. A program that could choose whom to ask would be given any address that it
likes; so it may ask whom the host asks, and whom its own /etc/resolv.conf names where it sees another one (a
container).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.scope import packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FILE: Final = "etc/resolv.conf"
_STUBS: Final = ("127.0.0.53", "127.0.0.54")  # systemd-resolved.service(8)
_DEFAULT: Final = "127.0.0.1"  # resolv.conf(5): where no nameserver is named
_SIZE_MAX: Final = 1 << 16


def resolvers(cgroups: Iterable[Path] = (), proc: Path = Path("/proc")) -> tuple[bytes, ...]:
    """Give the addresses, 16 bytes each, that processes of these cgroup directories may ask."""
    roots = [Path("/"), *(proc / pid / "root" for pid in _one_of_each(cgroups))]
    texts = [*_STUBS, *(text for root in roots for text in _nameservers(root / _FILE))]
    return tuple(
        dict.fromkeys(found for text in texts if (found := packed(text.partition("%")[0])) is not None)
    )


def _one_of_each(cgroups: Iterable[Path]) -> Iterator[str]:
    """Give a process of each cgroup: those of one cgroup see the same files, as a rule."""
    for directory in cgroups:
        try:
            first, _, _ = (directory / "cgroup.procs").read_text().partition("\n")
        except OSError:
            continue
        if first:
            yield first


def _nameservers(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            lines = file.read(_SIZE_MAX).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return [_DEFAULT]
    except OSError:  # another user's, or gone
        return []
    words = [line.split() for line in lines]
    return [one[1] for one in words if len(one) > 1 and one[0] == "nameserver"] or [_DEFAULT]
