"""Finding file systems in mountinfo texts of several kinds of host, and an instance's own paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.errors import NoBpffs, NoCgroup2, UsageError
from tracer.host import cgroups

OTHERS = "23 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"


def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *mounts: str) -> None:
    """Pretend that mountinfo has these lines besides the usual."""
    text = tmp_path / "mountinfo"
    text.write_text(OTHERS + "".join(f"{mount}\n" for mount in mounts))
    monkeypatch.setattr(cgroups, "MOUNTINFO", text)
    monkeypatch.setattr(cgroups, "FIRST_MOUNTINFO", tmp_path / "of-the-first-process")


def test_hybrid_mount_with_a_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The v2 mount is found wherever it is, its path unescaped as proc_pid_mountinfo(5) says."""
    point = tmp_path / "uni fied"
    point.mkdir()
    escaped = str(point).replace(" ", "\\040")
    v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"
    host(
        monkeypatch, tmp_path, v1, f"41 31 0:38 / {escaped} rw,nosuid shared:5 master:1 - cgroup2 cgroup2 rw"
    )
    assert cgroups.cgroup2_root() == point


def test_part_of_a_hierarchy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cgroup namespace, from which most of the host cannot be seen, is refused with the way out."""
    (tmp_path / "cgroup.type").write_text("domain\n")
    host(monkeypatch, tmp_path, f"41 31 0:38 / {tmp_path} rw - cgroup2 cgroup2 rw")
    with pytest.raises(NoCgroup2, match="only a part") as caught:
        cgroups.cgroup2_root()
    assert "--cgroupns=host" in caught.value.hint


def test_whole_hierarchy_from_a_namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host's own mount, seen from a pod's cgroup namespace, starts with its parents: it is the whole."""
    host(monkeypatch, tmp_path, f"41 31 0:38 /../../.. {tmp_path} rw - cgroup2 cgroup2 rw")
    assert cgroups.cgroup2_root() == tmp_path


def test_no_mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nothing is mounted, both errors say the command that mounts it."""
    host(monkeypatch, tmp_path, "broken line", "1 2 3 - x")
    with pytest.raises(NoCgroup2) as cgroup:
        cgroups.cgroup2_root()
    with pytest.raises(NoBpffs) as bpffs:
        cgroups.bpffs_root(mount=False)
    assert "mount -t cgroup2" in cgroup.value.hint
    assert bpffs.value.hint == "mount -t bpf bpf /sys/fs/bpf"


def test_a_mount_namespace_without_the_hierarchy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the first process sees the hierarchy and this one does not, mounting is not the way out."""
    host(monkeypatch, tmp_path)
    (tmp_path / "of-the-first-process").write_text(f"41 31 0:38 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    with pytest.raises(NoCgroup2, match="in this mount namespace") as caught:
        cgroups.cgroup2_root()
    assert "ip netns exec" in caught.value.hint


def test_bpffs_prefers_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of several BPF file systems the usual one is taken, and another one where that is missing."""
    other, usual = "50 1 0:40 / /run/bpf rw - bpf bpf rw", "51 1 0:41 / /sys/fs/bpf rw - bpf bpf rw"
    host(monkeypatch, tmp_path, other)
    assert cgroups.bpffs_root() == Path("/run/bpf")
    host(monkeypatch, tmp_path, other, usual)
    assert cgroups.bpffs_root() == Path("/sys/fs/bpf")


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-x", "a.b", "x" * 65, "a b", "a\n"])
def test_names_that_could_escape(name: str) -> None:
    """An instance's name is one component of a path on the BPF file system, which allows no dots."""
    with pytest.raises(UsageError):
        cgroups.instance_paths(name, Path("/sys/fs/bpf"))


def test_instances_do_not_meet() -> None:
    """Each instance has its own pins, state and sockets."""
    one, two = (cgroups.instance_paths(name, Path("/sys/fs/bpf")) for name in ("tattle", "second"))
    assert one.pins == Path("/sys/fs/bpf/tattle")
    assert one.control == Path("/run/tattle/control.sock")
    assert not set(one) & set(two)


def test_walk(tmp_path: Path) -> None:
    """Every directory comes with its inode number and its path from the root, as bytes, the root as /."""
    deep = tmp_path / "a.slice" / "b\udcff.service"
    deep.mkdir(parents=True)
    (deep / "cgroup.procs").touch()
    found = {path: number for number, path in cgroups.walk_cgroups(tmp_path)}
    assert set(found) == {b"/", b"/a.slice", b"/a.slice/b\xff.service"}
    assert found[b"/a.slice"] == cgroups.cgroup_id(tmp_path / "a.slice")
