r"""Who a process is, from the bytes that the kernel noted: pure, no /proc, no file.

Unit and container are read out of the cgroup's path, in the forms that systemd, Docker, Podman, containerd
and CRI-O use, with systemd's cgroup driver and without.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol

from tracer.model.containers import places
from tracer.model.text import escape

_NAME_LIMIT = 64  # a comm has 15 bytes; each may become four characters
_PATH_LIMIT = 4096  # PATH_MAX, include/uapi/linux/limits.h
_SHORT_ID = 12  # what `docker ps` shows

# systemd.unit(5): the types a process can live in; slices hold units, not processes
_UNIT = re.compile(r".+\.(?:service|scope|socket|mount|swap)\Z")
_USER_MANAGER = re.compile(r"user@\d+\.service\Z")


class ProcessInfo(NamedTuple):
    """One process as the kernel saw it in its own context; every text is escaped already."""

    pid: int | None
    ppid: int | None
    comm: str | None
    parent_comm: str | None
    exe: str | None
    uid: int | None
    cgroup: str | None
    unit: str | None
    container: str | None
    target: str | None
    targets: tuple[str, ...] = ()


# What processes have in common that differ by their numbers only
KIND: Final = ("target", "comm", "parent_comm", "exe", "uid", "cgroup", "unit", "container")
NOBODY = ProcessInfo(None, None, None, None, None, None, None, None, None, None)


def comm_text(raw: bytes) -> str:
    """Give a process name (NUL-padded bytes) as text; a name may be empty (prctl allows it)."""
    return escape(raw.split(b"\0", 1)[0], _NAME_LIMIT)


def exe_text(raw: bytes, *, cut: bool = False) -> str | None:
    """Put an executable's path together from its parts, file name first, each ended by NUL.

    A path whose head did not fit starts with an ellipsis instead of a slash. None: nothing was noted.
    """
    parts = raw.rstrip(b"\0").split(b"\0")
    parts.reverse()
    path = b"/".join(part for part in parts if part and part != b"/")
    if not path:
        return None
    return ("…/" if cut else "/") + escape(path, _PATH_LIMIT)


def cgroup_text(raw: bytes) -> str:
    """Give a cgroup's path below the mount point as text: ``/`` for the root, never a slash at the end."""
    path = raw.split(b"\0", 1)[0].strip(b"/")
    return "/" + escape(path)


def unit_of(cgroup: str | None) -> str | None:
    """Name the systemd unit that a cgroup belongs to, the user's own where a user manager runs it.

    As sd_pid_get_unit(3) does, the outermost one that is no slice: what a container's or a service's own
    subtree is called inside does not count.
    """
    for part in (cgroup or "").split("/"):
        if _UNIT.match(part) and not _USER_MANAGER.match(part):
            return part
    user = _USER_MANAGER.search(cgroup) if cgroup else None
    return user.group() if user else None


def container_of(cgroup: str | None) -> str | None:
    """Return the short id of the innermost container of a cgroup path; of LXC and nspawn the name."""
    place = next(places(cgroup or ""), None)
    return None if place is None else place.id if place.named else place.id[:_SHORT_ID]


class ProcessLookup(Protocol):
    """What is known of processes, by the kernel half's key."""

    def get(self, process: int) -> ProcessInfo | None:
        """Return who that is, or None."""
