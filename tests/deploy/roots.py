"""Fresh Debian roots, each an overlay on one that debootstrap made once, with this host's kernel below."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.mirror import host_mirror
from tests.support.packet_counters import die_with_parent
from tracer.host.cgroups import cgroup2_root

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "roots"
SUITES = ("bookworm", "trixie")
PACKAGES = "python3,python3-venv,libbpf1,man-db,init-system-helpers,systemd,dbus"

# What dpkg, apt and man-db write about everything that comes and goes.
BOOKS = ("var/lib/dpkg/", "var/log/", "var/cache/", "var/lib/apt/", "var/lib/systemd/deb-systemd-helper")


def base(suite: str) -> Path:
    """Give the root of a suite, made if it is not there yet: a minute, once."""
    made = CACHE / suite
    if made.exists():
        return made
    half = CACHE / f"{suite}.{os.getpid()}"
    words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(half), host_mirror()]
    CACHE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=900)
    if done.returncode:
        shutil.rmtree(half, ignore_errors=True)
        raise RuntimeError(f"debootstrap {suite}: {done.stdout[-2000:]}{done.stderr}")
    half.rename(made)
    return made


class Root:
    """A root with its own mounts, network, BPF file system and /run; gone with its scratch folder."""

    def __init__(self, suite: str, scratch: Path, *, pids: bool = False) -> None:
        """`pids`: a pid namespace of its own, too, whose first process `boot` may become."""
        self.suite = suite
        self.upper = scratch / "upper"
        self.here = scratch / "root"
        for folder in (self.upper, self.here, scratch / "work"):
            folder.mkdir()
        q = {name: shlex.quote(str(path)) for name, path in self._paths(scratch).items()}
        mounts = f"""
            set -e
            layers=lowerdir={q["lower"]},upperdir={q["upper"]},workdir={q["work"]}
            mount -t overlay overlay -o "$layers" {q["here"]}
            cd {q["here"]}
            mount -t proc proc proc
            mount --rbind /sys sys
            mount -t bpf bpf sys/fs/bpf
            mount --rbind /dev dev
            mount -t tmpfs tmpfs run
            mount -t tmpfs tmpfs tmp
            ip link set lo up
        """
        words = ["unshare", "--mount", "--net", *(["--pid", "--fork"] if pids else [])]
        ready = "echo ready; read line; exec " + (q["boot"] if pids else "cat")
        self._holder = subprocess.Popen(
            [*words, "sh", "-c", f"{mounts}{ready}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said != b"ready\n":
            raise RuntimeError(f"no root: {said + self._holder.stdout.read()!r}")

    def _paths(self, scratch: Path) -> dict[str, Path]:
        return {
            "lower": base(self.suite),
            "upper": self.upper,
            "work": scratch / "work",
            "here": self.here,
            "boot": scratch / "boot",
        }

    def command(self, *words: str) -> list[str]:
        """Give the command line that runs `words` inside."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        inside = ["env", "-i", path, "HOME=/root", "LC_ALL=C.UTF-8", *words]
        return ["nsenter", "-t", str(self._holder.pid), "-m", "-n", "chroot", str(self.here), *inside]

    def run(self, *words: str, timeout: float = 120) -> str:
        """Run a command inside, which must succeed; give all that it said."""
        done = self.attempt(*words, timeout=timeout)
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

    def attempt(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command inside; give how it ended, both outputs in one."""
        return subprocess.run(
            self.command(*words),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    def put(self, source: Path, to: str) -> str:
        """Copy a file of ours into /tmp there, which is no part of what is compared; give its path."""
        there = f"/tmp/{to}"  # noqa: S108 - of the root's own
        subprocess.run(self.command("sh", "-c", f"cat >{there}"), input=source.read_bytes(), check=True)
        return there

    def changed(self) -> set[str]:
        """Name the files that are other than in a fresh root, or gone; not the books of dpkg and others."""
        found = set(self._changed())
        return {name for name in found if not name.startswith(BOOKS)}

    def _changed(self) -> Iterator[str]:
        for folder, _, files in os.walk(self.upper):
            for name in files:
                path = Path(folder, name)
                yield str(path.relative_to(self.upper))
            inside = Path(folder).relative_to(self.upper)
            if not (base(self.suite) / inside).exists():
                yield f"{inside}/"

    def close(self) -> None:
        """End what holds the mounts, and with it these."""
        self._holder.kill()
        self._holder.communicate()


def cgroup(name: str) -> Path:
    """Give a new cgroup of this host."""
    path = cgroup2_root() / name
    path.mkdir()
    return path
