"""What a runtime is doing, told where no daemon runs: by `watch`, by `block`, by `status`."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.test_phases import Runtime, post
from tests.support.cgroups import tattle
from tests.support.daemon import PATIENCE, Tattle, until, watching
from tests.support.network import PEER4

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab

PATH = "/api/chat"


class Place:
    """A cgroup for a runtime, and an instance of tattle that has no daemon."""

    def __init__(self, lab: Lab, scratch: Path, name: str) -> None:
        self.lab = lab
        self.cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('alone')}/{name}")
        self.target = f"cgroup:{lab.cgroup_path(self.cgroup)}"
        self.tattle = Tattle(scratch)
        self.out = scratch / f"{self.tattle.instance}.watch"

    def call(self, port: int, *requests: dict[str, Any]) -> None:
        """Let a client ask these on one connection, to the end."""
        self.lab.run("clients.py", calls=[{"host": "127.0.0.1", "port": port, "requests": list(requests)}])

    def watch(self) -> subprocess.Popen[bytes]:
        """Watch the target, without a daemon; what is told goes to a file."""
        with self.out.open("wb") as out:
            return watching("--json", self.target, "--instance", self.tattle.instance, stdout=out)

    def told(self, event: str) -> list[dict[str, Any]]:
        """Give what the watch has told so far of one kind."""
        lines = [json.loads(line) for line in self.out.read_bytes().splitlines() if line.endswith(b"}")]
        return [line for line in lines if line["event"] == event]

    def state(self) -> dict[str, Any]:
        """Give what `status` says of the target."""
        targets: list[dict[str, Any]] = self.tattle.ask("status")["targets"]
        return next(one for one in targets if one["target"] == self.target)


@pytest.fixture
def place(lab: Lab, scratch: Path) -> Iterator[Place]:
    """A cgroup that is called as ollama's unit is."""
    made = Place(lab, scratch, "ollama.service")
    try:
        yield made
    finally:
        made.tattle.remove()


def end(process: subprocess.Popen[bytes]) -> None:
    """Let a watch end as a user does."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err


def test_watch_tells_phases_without_a_daemon(place: Place) -> None:
    """Requests, the phase in which somebody was called, and that no profile knows whom, as with a daemon."""
    runtime = Runtime(place.lab, place.cgroup)
    api, sink = runtime.listen("127.0.0.1"), place.lab.peer.serve("tcp")
    process = place.watch()
    try:
        place.call(api, post("chunked", headers={"X-Dial": f"{PEER4} {sink}"}))
        until(lambda: [] if len(place.told("request")) == 2 else [str(place.told("request"))])
        until(lambda: [] if place.told("connect") else ["nobody is called"])
    finally:
        end(process)
    assert [(one["phase"], one["path"]) for one in place.told("request")] == [("inference", PATH)] * 2
    (called,) = place.told("connect")
    assert (called["phase"], called["remote_port"]) == ("inference", sink)
    assert (called["purpose"], called["unexpected"]) == (None, True)


def test_watch_recognizes_a_runtime_that_starts_later(lab: Lab, scratch: Path) -> None:
    """Nothing but the program tells that it is one, and it was not there yet."""
    place = Place(lab, scratch, "nameless")
    process = place.watch()
    try:
        runtime = Runtime(lab, place.cgroup, name="ollama")
        api = runtime.listen("127.0.0.1")

        def asked() -> list[str]:
            place.call(api, post("length"))
            return [] if place.told("request") else ["no request is told"]

        until(asked)
    finally:
        end(process)
    assert {one["phase"] for one in place.told("request")} == {"inference"}


def test_block_alone_has_phases_told(place: Place) -> None:
    """Without a daemon, requests in flight are counted; what is denied meanwhile is denied in their phase."""
    runtime = Runtime(place.lab, place.cgroup)
    api, sink = runtime.listen("127.0.0.1"), place.lab.peer.serve("tcp")
    tattle(place.tattle.instance, "block", place.target)
    calls = [{"host": "127.0.0.1", "port": api, "requests": [post("chunked", 30.0)]} for _ in range(3)]
    clients = place.lab.start("clients.py", calls=calls)
    until(lambda: [] if place.state()["requests"] == {"inference": 3} else [str(place.state())])
    assert (place.state()["phase"], place.state()["active"]) == ("inference", True)
    clients.process.kill()
    until(lambda: [] if (place.state()["phase"], place.state()["requests"]) == ("idle", {}) else ["busy"])
    place.call(api, post("length", target="/api/pull", headers={"X-Dial": f"{PEER4} {sink}"}))
    place.tattle.start()
    (denied,) = [flow for flow in place.tattle.read()["flows"] if flow["remote_port"] == sink]
    assert (denied["phase"], denied["denied"], denied["established"]) == ("pull", 1, 0)


def test_status_knows_no_phase_of_what_is_no_runtime(lab: Lab, scratch: Path) -> None:
    """A blocked cgroup without a known API: unknown, and no number of requests instead of none."""
    place = Place(lab, scratch, f"plain-{os.getpid()}")
    try:
        tattle(place.tattle.instance, "block", place.target)
        assert (place.state()["phase"], place.state()["requests"]) == ("unknown", None)
    finally:
        place.tattle.remove()
