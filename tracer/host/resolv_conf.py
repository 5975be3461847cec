"""How processes of a target look names up: the resolv.conf and hosts files that they see.

A name is as true as who tells it. A program that could choose whom to ask would be given any address that it
likes; so it may ask whom the host asks, and whom its own /etc/resolv.conf names where it sees another one (a
container). Its own hosts file counts as it was when the container started: a program in it may write to it.
So does the resolv.conf of a container that was made after the rules.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from tracer.host.cgroups import walk_cgroups
from tracer.host.hosts_file import SIZE_MAX, parse
from tracer.model.scope import packed
from tracer.model.text import dotted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_FILE: Final = "etc/resolv.conf"
_HOSTS: Final = "etc/hosts"
_HOSTNAME: Final = "etc/hostname"
_STUBS: Final = ("127.0.0.53", "127.0.0.54")  # systemd-resolved.service(8)
_DEFAULT: Final = "127.0.0.1"  # resolv.conf(5): where no nameserver is named
_SEARCH: Final = ("search", "domain")  # resolv.conf(5): the last of both counts
_SIZE_MAX: Final = 1 << 16
_CGROUPS_MAX: Final = 256
"""So many cgroups of a target are looked into: a container has few, and each costs a few reads."""
_START: Final = 19
"""Index of the start time in /proc/PID/stat behind the name (proc_pid_stat(5), field 22), in clock ticks."""

Key = TypeVar("Key", bytes, str)

HOST, OWN = 1, 2
"""Who names a resolver; in sums of both."""


class Conf(NamedTuple):
    """A resolv.conf(5): texts as they stand there; `search` is None where it says nothing of it."""

    nameservers: list[str]
    search: list[str] | None


class Resolvers(NamedTuple):
    """Addresses, 16 bytes each, with who names them; `certain` says of whom all could be read.

    `search` are the domains that are tried behind a name, `hosts` the names of addresses in hosts files.
    """

    named: dict[bytes, int]
    certain: int
    search: dict[str, int]
    hosts: dict[bytes, set[str]]


def resolvers(cgroups: Iterable[Path] = ()) -> tuple[bytes, ...]:
    """Return the addresses, 16 bytes each, that processes of these cgroup directories may ask."""
    return tuple(look(cgroups).named)


def look(
    cgroups: Iterable[Path] = (),
    root: Path = Path("/"),
    proc: Path = Path("/proc"),
    containers: Iterable[Path] = (),
) -> Resolvers:
    """Find out whom processes of these cgroup directories may ask, and who says so.

    `root` is the host's. The files of `containers` count as they were when these began. What cannot be read
    now (another user's, or nobody is there) is no reason to forget.
    """
    conf = read(root / _FILE)
    found = Resolvers({}, HOST | OWN if conf else OWN, {}, {})
    _note(found.named, HOST, map(_address, (*_STUBS, *(conf.nameservers if conf else ()))))
    _note(found.search, HOST, _domains(conf, socket.gethostname()))
    _add_hosts(found.hosts, _host_names(root / _HOSTS))
    certain = found.certain
    for directory in cgroups:
        if not _look_into(directory, root, proc, found):
            certain &= ~OWN
    for directory in containers:
        if not _look_into(directory, root, proc, found, as_begun=True):
            certain &= ~OWN
    return found._replace(certain=certain)


def _look_into(directory: Path, root: Path, proc: Path, found: Resolvers, *, as_begun: bool = False) -> bool:
    """Add what processes of a cgroup and of those below see of their own. False: some could not be read."""
    members = [pids for pids in _members(directory) if pids]
    began = min((_started(proc / pid) for pids in members for pid in pids), default=math.inf)
    latest = began if as_begun else math.inf
    read_all = [_look_from(proc / pids[0], root, found, latest) for pids in members]
    places = {key: path for pids in members if (key := _identity(path := proc / pids[0] / "root" / _HOSTS))}
    for key, path in places.items():
        if not _same(path, root / _HOSTS):
            _add_hosts(found.hosts, _own_names(path, key, began))
    return bool(read_all) and all(read_all)


def _look_from(process: Path, root: Path, found: Resolvers, latest: float) -> bool:
    """Add what stands in the resolv.conf of a process, if it is not the host's.

    False: it is unreadable, or was changed after `latest` (seconds since the epoch).
    """
    place = process / "root"
    if _same(place / _FILE, root / _FILE):
        return True
    conf = read(place / _FILE, latest)
    if conf is None or not process.exists():
        return False
    _note(found.named, OWN, map(_address, conf.nameservers))
    _note(found.search, OWN, _domains(conf, _line(place / _HOSTNAME)))
    return True


def _members(directory: Path) -> Iterator[list[str]]:
    """Yield the processes of each cgroup: those of one see the same files, as a rule."""
    for number, (_, path) in enumerate(walk_cgroups(directory)):
        if number >= _CGROUPS_MAX:
            return
        with contextlib.suppress(OSError):
            yield (directory / os.fsdecode(path).lstrip("/") / "cgroup.procs").read_text().split()


def _note(noted: dict[Key, int], by: int, keys: Iterable[Key | None]) -> None:
    for key in keys:
        if key is not None:
            noted[key] = noted.get(key, 0) | by


def _address(text: str) -> bytes | None:
    return packed(text.partition("%")[0])


def _domains(conf: Conf | None, hostname: str) -> Iterator[str]:
    """Yield the domains that are tried; where none is named, it is the host's own (resolv.conf(5))."""
    if conf is None:
        return
    texts = [hostname.partition(".")[2]] if conf.search is None else conf.search
    for text in texts:
        domain = dotted(text.encode("ascii", "replace"))
        if domain:
            yield domain


def _add_hosts(hosts: dict[bytes, set[str]], names: Mapping[bytes, tuple[str, ...]]) -> None:
    for address, called in names.items():
        hosts.setdefault(address, set()).update(called)


def _host_names(path: Path) -> Mapping[bytes, tuple[str, ...]]:
    try:
        state = path.stat()
        return _names_in(path, state.st_mtime_ns, state.st_size, state.st_ino)
    except OSError:
        return {}


@functools.lru_cache(maxsize=16)
def _names_in(path: Path, *_state: int) -> Mapping[bytes, tuple[str, ...]]:
    with path.open("rb") as file:
        return parse(file.read(SIZE_MAX))


def _own_names(path: Path, expected: tuple[int, int], began: float) -> Mapping[bytes, tuple[str, ...]]:
    """Read a container's hosts file, if it is as it was when that began, and no link to elsewhere."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            state = os.fstat(fd)
            is_old = (state.st_dev, state.st_ino) == expected and state.st_ctime <= began
            return parse(file.read(SIZE_MAX)) if is_old and stat.S_ISREG(state.st_mode) else {}
    except OSError:
        return {}


def _started(process: Path) -> float:
    """Return when a process started, in seconds since the epoch; infinity: it is gone."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.inf
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + int(fields[_START]) / os.sysconf("SC_CLK_TCK")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        state = path.lstat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _line(path: Path) -> str:
    try:
        return _text(path).partition("\n")[0].strip()
    except OSError:
        return ""


def _text(path: Path, latest: float = math.inf) -> str:
    """Read a file that may be a stranger's: OSError where it is none, or was changed after `latest`."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_ctime > latest:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return file.read(_SIZE_MAX).decode("ascii", "replace")


def read(path: Path, latest: float = math.inf) -> Conf | None:
    """Read a resolv.conf(5), as it was at `latest`; None where nobody can tell what is in it."""
    try:
        lines = _text(path, latest).splitlines()
    except FileNotFoundError:
        return Conf([_DEFAULT], None)
    except OSError:
        return None
    words = [line.split() for line in lines]
    nameservers = [one[1] for one in words if len(one) > 1 and one[0] == "nameserver"]
    searched = [one[1:] if one[0] == "search" else one[1:2] for one in words if one and one[0] in _SEARCH]
    return Conf(nameservers or [_DEFAULT], searched[-1] if searched else None)


def asks_resolved(root: Path = Path("/")) -> bool:
    """Say whether programs look names up by systemd-resolved's own socket (nss-resolve(8)), unseen by us."""
    try:
        lines = (root / "etc/nsswitch.conf").read_text("ascii", "replace").splitlines()
    except OSError:
        return False
    return any(
        line.startswith("hosts:") and "resolve" in line.partition("#")[0].split()[1:] for line in lines
    )
