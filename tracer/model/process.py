r"""Who a process is, from the bytes that the kernel noted: pure, no /proc, no file.

Unit and container are read out of the cgroup's path, in the forms that systemd, Docker, Podman, containerd
and CRI-O use, with systemd's cgroup driver and without.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tracer.model.text import escape

_NAME_LIMIT = 64  # a comm has 15 bytes; each may become four characters
_PATH_LIMIT = 4096  # PATH_MAX, include/uapi/linux/limits.h
_SHORT_ID = 12  # what `docker ps` shows

# systemd.unit(5): the types a process can live in; slices hold units, not processes
_UNIT = re.compile(r".+\.(?:service|scope|socket|mount|swap)\Z")
_USER_MANAGER = re.compile(r"user@\d+\.service\Z")
# docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope, crio-ID.scope: systemd's driver;
# docker/ID, libpod_parent/libpod-ID, kubepods/.../podUID/ID: cgroupfs' driver
_CONTAINER = re.compile(r"(?:(?:docker|libpod|cri-containerd|crio|nerdctl)-)?([0-9a-f]{64})(?:\.scope)?\Z")


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


def container_id(cgroup: str | None) -> str | None:
    """Give the 64-digit id of the innermost container that a cgroup path names."""
    for part in reversed((cgroup or "").split("/")):
        found = _CONTAINER.match(part)
        if found:
            return found.group(1)
    return None


def container_of(cgroup: str | None) -> str | None:
    """Give the short id of a cgroup's container: its name as long as no engine tells a better one."""
    found = container_id(cgroup)
    return found[:_SHORT_ID] if found else None
