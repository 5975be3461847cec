"""Under systemd the daemon's words and denials are in the journal, with fields to ask for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE, ROOT, Tattle, command, run, works
from tests.support.packet_counters import die_with_parent
from tracer.host.cgroups import cgroup2_root

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path("/run/systemd/journal")
CONNECT = "import socket; s = socket.socket(); s.settimeout(9); s.connect(('198.51.100.77', 443))"


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Give a cgroup of the test's own."""
    path = cgroup2_root() / f"journald{os.getpid()}"
    path.mkdir()
    yield path
    path.rmdir()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    """Give a socket that the daemon, in a mount namespace of its own, finds where journald's is."""
    missing = [folder for folder in (FOLDER, *FOLDER.parents) if not folder.exists()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.settimeout(0.1)
        yield listening
    for folder in missing:
        folder.rmdir()


def tattle_run(tattle: Tattle, tmp_path: Path) -> subprocess.Popen[bytes]:
    """Start the daemon as systemd would: JOURNAL_STREAM names what standard error is."""
    words = ["run", "--instance", tattle.instance, "--listen", f"127.0.0.1:{tattle.port}"]
    mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    with tattle.errors.open("wb") as errors:
        stream = os.fstat(errors.fileno())
        return subprocess.Popen(
            ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path), str(FOLDER), *command(*words)],
            cwd=ROOT,
            env={**os.environ, "JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"},
            stdout=errors,
            stderr=errors,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here
        )


def fields(listening: socket.socket, *wanted: bytes) -> list[bytes]:
    """Wait for an entry that has all of these lines."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            lines = listening.recv(1 << 18).split(b"\n")
        except TimeoutError:
            continue
        if set(wanted) <= set(lines):
            return lines
    raise AssertionError(f"no entry with {wanted}")


def inside(cgroup: Path, code: str) -> int:
    """Run Python code in a cgroup; give its exit code."""
    move = f"open('{cgroup}/cgroup.procs', 'w').write('0'); "
    return subprocess.run(
        [sys.executable, "-c", move + code], check=False, stderr=subprocess.DEVNULL
    ).returncode


def test_denials_and_words_are_in_the_journal(cgroup: Path, journald: socket.socket, tmp_path: Path) -> None:
    """`journalctl TATTLE_TARGET=... TATTLE_EVENT=deny` finds it; the daemon's words have a level."""
    tattle, target = Tattle(tmp_path), f"cgroup:/{cgroup.name}"
    daemon = tattle_run(tattle, tmp_path)
    try:
        deadline = time.monotonic() + PATIENCE
        while b"hooks attached" not in tattle.errors.read_bytes():
            assert daemon.poll() is None, tattle.errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        works("block", target, "--instance", tattle.instance)
        assert inside(cgroup, CONNECT) != 0
        entry = fields(journald, b"TATTLE_EVENT=deny", f"TATTLE_TARGET={target}".encode())
        assert b"TATTLE_REMOTE_ADDR=198.51.100.77" in entry
        assert b"TATTLE_REMOTE_PORT=443" in entry
        assert b"PRIORITY=4" in entry
        assert f"TATTLE_INSTANCE={tattle.instance}".encode() in entry
        daemon.send_signal(signal.SIGHUP)
        said = fields(journald, b"MESSAGE=configuration read again", b"PRIORITY=6")
        assert b"SYSLOG_IDENTIFIER=tattle" in said
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(PATIENCE) == 0, tattle.errors.read_text()
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        run("unblock", target, "--instance", tattle.instance)
        tattle.remove()
