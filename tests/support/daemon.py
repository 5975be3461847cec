"""A running tattle under test: started as its users start it, asked as they ask it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.support.engines import made_by
from tests.support.packet_counters import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[2]
ENOUGH_LOOKS = 4
PATIENCE = 90.0
"""Seconds that the daemon may take to become ready or to end."""


def command(*words: str) -> list[str]:
    """Return the command line of one `tattle` command."""
    return [sys.executable, "-m", "tracer", *made_by(words)]


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401 - of subprocess
    """Run one `tattle` command to its end."""
    usual: dict[str, Any] = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.run(command(*words), check=False, timeout=PATIENCE, **{**usual, **options})


def works(*words: str, **options: Any) -> None:  # noqa: ANN401 - of subprocess
    """Run one to its end; it must exit with 0."""
    done = run(*words, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Tattle:
    """One daemon under an instance name of its own; `flows` asks it, `events` reads its log."""

    def __init__(self, scratch: Path, *options: str, instance: str | None = None) -> None:
        self.instance = instance or f"t{os.getpid()}-{secrets.token_hex(3)}"
        self.options = options
        self.port = free_port()
        self.log = scratch / f"{self.instance}.jsonl"
        self.errors = scratch / f"{self.instance}.stderr"
        self.process: subprocess.Popen[bytes] | None = None
        self.launcher = ("tracer",)  # the module that is run, with what comes before tattle's own words
        self.since = 0

    @property
    def own(self) -> tuple[str, str]:
        """The option that has a command speak to this one."""
        return "--instance", self.instance

    def start(self) -> Tattle:
        """Start and wait until it tells READY=1 (sd_notify(3))."""
        door = str(self.log.with_suffix(".notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            Path(door).unlink(missing_ok=True)
            notify.bind(door)
            notify.settimeout(0.2)
            self.process = self._spawn(door)
            self._await_ready(notify)
        return self

    def _spawn(self, door: str) -> subprocess.Popen[bytes]:
        words = ["run", "--instance", self.instance, "--listen", f"127.0.0.1:{self.port}"]
        words += ["--log-file", str(self.log), *self.options]
        with self.errors.open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", *self.launcher, *made_by(tuple(words))],
                cwd=ROOT,
                env={**os.environ, "NOTIFY_SOCKET": door},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here
            )

    def _await_ready(self, notify: socket.socket) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in notify.recv(4096):
                    return
            except TimeoutError:
                if self.process and self.process.poll() is not None:
                    break
        text = self.errors.read_text(errors="replace")[-3000:]
        self.kill()
        raise RuntimeError(f"tattle did not become ready: {text}")

    def ask(self, *words: str) -> Any:  # noqa: ANN401 - JSON
        """Run `tattle WORDS --json` for this instance and return what it prints."""
        done = run(*words, "--instance", self.instance, "--json")
        if done.returncode:
            raise RuntimeError(f"tattle {words}: exit {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def read(self, newest: int = 0) -> dict[str, Any]:
        """Return flows (all, or the newest), losses and totals, asked of the control socket."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(PATIENCE)
            door.connect(f"/run/{self.instance}/control.sock")
            door.sendall(json.dumps({"ask": "flows", "newest": newest}).encode() + b"\n")
            with door.makefile("rb") as lines:
                found: dict[str, Any] = json.loads(next(lines))
                rows = [json.loads(line) for line in lines]
        if not rows or rows.pop() != {"end": True}:
            raise RuntimeError(f"{self.instance}: the answer was cut: {found}")
        return {**found, "flows": rows}

    def flows(self, *comms: str, newest: int = 0) -> list[dict[str, Any]]:
        """Return the flows of the processes with these names (of the newest ones only: quicker)."""
        return [flow for flow in self.read(newest)["flows"] if flow["comm"] in comms]

    def losses(self) -> dict[str, int]:
        """Return what was lost, by reason."""
        found: dict[str, int] = self.read(1)["losses"]
        return found

    def mark(self) -> None:
        """Have `events` begin here: a busy host's log is long, and of no interest to the next test."""
        self.since = self.log.stat().st_size if self.log.exists() else 0

    def text(self) -> bytes:
        """Return the log from the mark on."""
        with self.log.open("rb") as file:
            file.seek(self.since)
            return file.read()

    def events(self, *comms: str) -> list[dict[str, Any]]:
        """Return the log's events of the processes with these names (all, without one), from the mark on."""
        lines = self.text().splitlines()
        wanted = [
            json.dumps(comm, ensure_ascii=False).encode() for comm in comms
        ]  # a busy host has many others
        lines = [line for line in lines if not wanted or any(name in line for name in wanted)]
        found = [json.loads(line) for line in lines if line.endswith(b"}")]
        return [event for event in found if not comms or event["comm"] in comms]

    def stop(self) -> int:
        """Stop as a user does, and return the exit code."""
        if not self.process:
            return 0
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.process = None
        return code

    def kill(self) -> None:
        """Kill without a chance to clean up."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        """Take away what a killed daemon left behind: pins, and with them everything that is attached."""
        self.kill()
        for root in (Path("/sys/fs/bpf"), Path("/run"), Path("/var/lib")):
            shutil.rmtree(root / self.instance, ignore_errors=True)


def sweep() -> None:
    """Detach what daemons of killed runs left pinned: their names tell the run's process, and it is gone."""
    for pins in Path("/sys/fs/bpf").glob("t[1-9]*-??????"):
        if not Path(f"/proc/{pins.name[1:].partition('-')[0]}").exists():
            Tattle(pins, instance=pins.name).remove()


def watching(*words: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start `tattle watch` and wait until it watches."""
    process = subprocess.Popen(command("watch", *words), cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE)
    if process.stderr is None or b"watching" not in process.stderr.readline():
        raise RuntimeError(f"nothing is watched: {process.communicate()[1]!r}")
    return process


def events_lost(tattle: Tattle) -> int:
    """Return how many events are missing from the log: lost by the ring, or by the log."""
    return sum(count for reason, count in tattle.losses().items() if reason.startswith(("ring_", "log_")))


def until(condition: Callable[[], Sequence[str]], patience: float = 60.0) -> None:
    """Wait until nothing is complained about; fail with the last complaints when patience ends.

    On a busy host one look may take all the time there is: the last word is never the first look's.
    """
    deadline, looks = time.monotonic() + patience, 0
    while complaints := condition():
        looks += 1
        if time.monotonic() > deadline and looks >= ENOUGH_LOOKS:
            raise AssertionError("\n".join(complaints))
        time.sleep(0.05)
