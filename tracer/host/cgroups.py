"""Where things are on this host: the cgroup v2 root, the BPF file system, an instance's own paths."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.errors import NoBpffs, NoCgroup2, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNTINFO = Path("/proc/self/mountinfo")
FIRST_MOUNTINFO = Path("/proc/1/mountinfo")
BPFFS = Path("/sys/fs/bpf")
_ESCAPE = re.compile(r"\\([0-7]{3})")
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Mount(NamedTuple):
    """One line of mountinfo: `root` is the part of the file system that is mounted at `point`."""

    root: str
    point: Path
    kind: str


class InstancePaths(NamedTuple):
    """What belongs to one instance on this host."""

    pins: Path
    state: Path
    run: Path

    @property
    def lock(self) -> Path:
        """Held by the daemon."""
        return self.run / "lock"

    @property
    def flush_lock(self) -> Path:
        """Held while somebody runs the flush iterator."""
        return self.run / "flush.lock"

    @property
    def policy_lock(self) -> Path:
        """Held while somebody changes policies or targets."""
        return self.run / "policy.lock"

    @property
    def control(self) -> Path:
        """The daemon's socket."""
        return self.run / "control.sock"


def parse_mounts(text: str) -> Iterator[Mount]:
    """Yield the mounts of a mountinfo text (proc_pid_mountinfo(5)); broken lines are skipped."""
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if dash and len(left) > 4:  # noqa: PLR2004 - fields (4) and (5) of the man page
            yield Mount(_unescape(left[3]), Path(_unescape(left[4])), right[0])


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _mounts() -> list[Mount]:
    return list(parse_mounts(_text(MOUNTINFO)))


def _text(mountinfo: Path) -> str:
    return mountinfo.read_text(encoding="utf-8", errors="surrogateescape")


def cgroup2_root() -> Path:
    """Return where the whole cgroup v2 hierarchy is mounted, hybrid hosts included.

    Raises NoCgroup2 where there is none, or only a part of it (a cgroup namespace): from there the
    rest of the host would be unseen.
    """
    found = [mount for mount in _mounts() if mount.kind == "cgroup2"]
    for mount in found:
        # All cgroups but the root have this file: Documentation/admin-guide/cgroup-v2.rst.
        # From a cgroup namespace of its own, as in a pod, its parents show as "..": cgroup_namespaces(7).
        whole = set(mount.root.split("/")) <= {"", ".."}
        if whole and mount.point.is_dir() and not (mount.point / "cgroup.type").exists():
            return mount.point
    if found:
        mend = "run in the host's cgroup namespace (docker: --cgroupns=host) with its /sys/fs/cgroup"
        raise NoCgroup2(f"{found[0].point} is only a part of the cgroup v2 hierarchy", mend)
    if _has_cgroup2(FIRST_MOUNTINFO):
        # ip-netns(8) mounts /sys anew, and with that takes away what is mounted below it.
        mend = "not in `ip netns exec`: tattle sees all network namespaces; or: nsenter -t 1 -m tattle ..."
        raise NoCgroup2("no cgroup v2 hierarchy is mounted in this mount namespace", mend)
    mend = "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    raise NoCgroup2("no cgroup v2 hierarchy is mounted", mend)


def _has_cgroup2(mountinfo: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(one.kind == "cgroup2" for one in parse_mounts(_text(mountinfo)))
    return False


def bpffs_root(*, mount: bool = True) -> Path:
    """Return where a BPF file system is mounted, preferring /sys/fs/bpf, which is mounted if need be.

    Raises NoBpffs where there is none and `mount` is false or mounting fails.
    """
    found = [entry.point for entry in _mounts() if entry.kind == "bpf"]
    if BPFFS in found:
        return BPFFS
    if found:
        return found[0]
    mend = f"mount -t bpf bpf {BPFFS}"
    if not mount:
        raise NoBpffs("no BPF file system is mounted", mend)
    libc = ctypes.CDLL(None, use_errno=True)
    # Flags MS_NOSUID | MS_NODEV | MS_NOEXEC, as systemd mounts it: include/uapi/linux/mount.h.
    if libc.mount(b"bpf", os.fsencode(BPFFS), b"bpf", 2 | 4 | 8, b"mode=700"):
        reason = os.strerror(ctypes.get_errno())
        raise NoBpffs(f"cannot mount a BPF file system at {BPFFS}: {reason}", mend)
    return BPFFS


def instance_paths(instance: str, bpffs: Path) -> InstancePaths:
    """Return the paths of `instance`; UsageError where its name could leave its directories."""
    if not _INSTANCE.fullmatch(instance):
        mend = "letters, digits, - and _ only, at most 64"
        raise UsageError(f"{instance!r} cannot be the name of an instance", mend)
    return InstancePaths(bpffs / instance, Path("/var/lib") / instance, Path("/run") / instance)


def cgroup_id(path: Path) -> int:
    """Return the kernel's id of a cgroup v2 directory: its inode number (kernfs, since 5.5)."""
    return path.stat().st_ino


def members(directory: Path) -> list[str]:
    """Return the process ids of a cgroup and of those below it (cgroups(7): cgroup.procs)."""
    found: list[str] = []
    for procs in directory.rglob("cgroup.procs"):
        try:
            found += procs.read_text(encoding="ascii").split()
        except OSError:  # gone meanwhile, or threaded: then its processes are listed further up
            continue
    return found


def walk_cgroups(root: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (id, path from the root as bytes) of every cgroup; those that vanish meanwhile are left out.

    There are none where the root itself is not there (yet).
    """
    start = os.fsencode(root)
    with contextlib.suppress(FileNotFoundError):
        for directory, _children, _files, fd in os.fwalk(start, follow_symlinks=False):
            yield os.fstat(fd).st_ino, directory[len(start) :] or b"/"


VERSION1_HINT: Final = (
    "remove the v1 groups, or boot with systemd.unified_cgroup_hierarchy=1; from 5.15 on it is harmless"
)


def version1_in_use() -> list[str]:
    """Return which of the v1 controllers net_cls and net_prio have groups.

    Before 5.15 they took sockets out of their v2 cgroup (cgroup_sk_alloc_disabled, kernel/cgroup/cgroup.c;
    removed by commit 8520e224f547).
    """
    used = []
    for line in MOUNTINFO.read_text().splitlines():
        point, options = line.split(" ")[4], line.rpartition(" ")[2].split(",")
        names = {"net_cls", "net_prio"} & set(options)
        if names and any(entry.is_dir() for entry in os.scandir(point)):
            used += sorted(names)
    return used
