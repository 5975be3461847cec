"""A `tattle run` of the tests' own, outside the namespaces, and the questions that users ask it."""

import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.world.miniature.layout import TOP
from tests.world.miniature.processes import end

TATTLE = [sys.executable, "-m", "tracer"]
START_S = 60.0
STATE = (Path("/var/lib"), Path("/run"), Path("/sys/fs/bpf"))  # the last if it had to be killed


@dataclass(frozen=True)
class Tattle:
    """A running daemon."""

    instance: str
    listen: str
    event_log: Path

    def ask(self, *words: str) -> Any:  # noqa: ANN401 - JSON
        """Run `tattle WORDS --json` and return its JSON."""
        command = [*TATTLE, *words, "--json", "--instance", self.instance]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOP)
        assert done.returncode == 0, f"{command} failed: {done.stderr}"
        return json.loads(done.stdout)

    def flows(self, cgroup: str) -> list[dict[str, Any]]:
        """Return the flows of processes in CGROUP."""
        return [flow for flow in self.ask("flows")["flows"] if flow["cgroup"] == cgroup]

    def events(self, cgroup: str) -> list[dict[str, Any]]:
        """Return what the event log has of processes in CGROUP."""
        lines = [json.loads(line) for line in self.event_log.read_text().splitlines()]
        return [line for line in lines if line["cgroup"] == cgroup]


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(notify: socket.socket, child: subprocess.Popen[bytes]) -> None:
    """Wait for READY=1 (sd_notify(3)); raises AssertionError when the daemon ends or takes too long."""
    pidfd = os.pidfd_open(child.pid)
    try:
        while True:
            ready, _, _ = select.select([notify, pidfd], [], [], START_S)
            assert ready, f"tattle was not ready within {START_S} s"
            assert pidfd not in ready, f"tattle ended with {child.wait()}"
            if b"READY=1" in notify.recv(4096).split(b"\n"):
                return
    finally:
        os.close(pidfd)


@contextmanager
def tattle(state: Path, *options: str) -> Iterator[Tattle]:
    """Run a daemon with OPTIONS for the time of the block, from when it says that it is ready."""
    it = Tattle(f"tattle-{secrets.token_hex(4)}", f"127.0.0.1:{free_port()}", state / "events.jsonl")
    places = ("--instance", it.instance, "--listen", it.listen, "--log-file", str(it.event_log))
    command = ["setpriv", "--pdeathsig", "TERM", *TATTLE, "run", *places, *options]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (state / "tattle.log").open("wb") as log:
        notify.bind(str(state / "notify"))
        env = {**os.environ, "NOTIFY_SOCKET": str(state / "notify")}
        child = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=TOP)
        try:
            wait_ready(notify, child)
            yield it
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(state / 'tattle.log').read_text()[-3000:]}") from error
        finally:
            end(child)
            for parent in STATE:
                shutil.rmtree(parent / it.instance, ignore_errors=True)
