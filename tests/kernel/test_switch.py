"""The switch: what a runtime needs is open while it needs it, and at no other time; a lift ends by itself."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cgroups import tattle
from tests.support.daemon import Tattle, until
from tests.support.named_world import inhabited, pem, resolver
from tests.support.network import PEER4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cgroups import Judge
    from tests.support.network import Lab, Program

__all__ = ["pem", "resolver"]  # fixtures

REGISTRY = "registry.ollama.ai"
"""What the profile of ollama lists under `pull`; the lab's resolver knows it."""
ROUNDS = int(os.environ.get("TATTLE_SWITCH_ROUNDS", "4"))
"""Of prompt, pull, prompt: 200 are recorded, fewer do every day."""
NOTHING = {"resolve": 0, "connect": 0}


class Runtime:
    """A runtime in a cgroup that is called as ollama's unit is, its client, and an instance of tattle."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        self.lab = lab
        self.inside = lab.cgroup(f"lab-{lab.token}/{lab.name('switch')}/ollama.service")
        self.target = f"cgroup:{lab.cgroup_path(self.inside)}"
        self.tattle = Tattle(scratch)
        self.programs: list[Program] = []

    def serve(self, port: int, pem: Path) -> None:
        """Start the registry, the runtime and its client."""
        self.port = port
        registry = self._start("registry", port=port, pem=str(pem), namespace=self.lab.peer_ns)
        registry.ready()
        registry.go()
        runtime = self._start("runtime", port=port, resolver=PEER4, asks=REGISTRY, cgroup=self.inside)
        self.client = self._start("client", port=runtime.ready()["port"])

    def _start(self, op: str, **more: Any) -> Program:  # noqa: ANN401 - arguments of the program
        self.programs.append(self.lab.start("pulling.py", op=op, **more))
        return self.programs[-1]

    def ask(self, path: str) -> dict[str, Any]:
        """Have the client ask the runtime's API; returns the last line of the answer."""
        self.client.go(path)
        return self.client.ready()

    def say(self, *words: str, code: int = 0) -> str:
        """Run a tattle command for the instance."""
        return tattle(self.tattle.instance, *words, code=code)

    def state(self) -> dict[str, Any]:
        """Return what `status` says of the runtime."""
        targets: list[dict[str, Any]] = self.tattle.ask("status")["targets"]
        return next(one for one in targets if one["target"] == self.target)

    def close(self) -> None:
        """End all."""
        for program in self.programs:
            program.process.kill()
        self.tattle.remove()


@pytest.fixture
def runtime(lab: Lab, scratch: Path, pem: Path, resolver: None) -> Iterator[Runtime]:  # noqa: ARG001 - it only has to run
    """A runtime that pulls from the lab's registry, not blocked yet."""
    made = Runtime(lab, scratch)
    try:
        with inhabited(made, pem, scratch):
            made.serve(lab.port(), pem)
            yield made
    finally:
        made.close()


def rounds(runtime: Runtime, judge: Judge, times: int) -> list[int]:
    """Prompt and pull in turn; every pull succeeds, no prompt gets a packet out."""
    fresh = []
    for _ in range(times):
        before = judge.arrived()
        said = runtime.ask("/api/generate")
        assert {way: said[way] for way in NOTHING} == NOTHING
        assert judge.arrived().packets == before.packets
        said = runtime.ask("/api/pull")
        assert said.get("status") == "success", said
        fresh.append(said["fresh"])
    before = judge.arrived()
    runtime.ask("/api/generate")
    assert judge.arrived().packets == before.packets
    return fresh


@pytest.mark.parametrize("daemon", ["none", "running", "killed"])
def test_only_pulls_get_out_and_every_pull_does(daemon: str, runtime: Runtime, judge: Judge) -> None:
    """Under --keep pull: with a daemon, without one, and when it has been killed."""
    if daemon != "none":
        runtime.tattle.start()
    told = runtime.say("block", runtime.target, "--keep", "pull")
    assert "pull is kept: " in told
    assert REGISTRY in told
    if daemon == "killed":
        runtime.tattle.kill()
    state = runtime.state()
    assert (state["active"], state["keep"]) == (True, ["pull"])
    assert f"allow {REGISTRY}+pull" in state["rules"]
    assert sum(rounds(runtime, judge, ROUNDS))
    if daemon == "running":
        until(lambda: [] if when_refused(runtime) == ["only while a pull is in flight"] else ["not told"])


def when_refused(runtime: Runtime) -> list[str | None]:
    """Return when the registry's name, refused during a prompt, is allowed, as `flows` tells."""
    refused = runtime.tattle.ask("flows")["refused"]
    return [one["when"] for one in refused if (one["target"], one["name"]) == (runtime.target, REGISTRY)]


def connections(runtime: Runtime) -> list[str]:
    """Return the runtime's open connections to the registry, a line each."""
    listed = runtime.lab.client.run("ss", "-Htn", "state", "established", "dport", "=", str(runtime.port))
    return listed.splitlines()


def test_when_a_pull_is_over_its_connections_are_cut(runtime: Runtime) -> None:
    """The runtime would keep them for the next one: both ends are told, and the next pull opens its own."""
    runtime.tattle.start()
    runtime.say("block", runtime.target, "--keep", "pull")
    for _ in range(3):
        assert runtime.ask("/api/pull")["status"] == "success"
        until(lambda: connections(runtime))
        told = runtime.lab.peer_ns.run("ss", "-Htn", "state", "established", "sport", "=", str(runtime.port))
        assert told == ""
    assert "open connections cut" in runtime.tattle.errors.read_text()


def open_now(runtime: Runtime) -> bool:
    """Whether the runtime can ask for a name that no pull needs now."""
    return bool(runtime.ask("/api/generate")["resolve"])


@pytest.mark.parametrize("daemon", ["none", "killed"])
def test_a_lift_ends_by_itself(daemon: str, runtime: Runtime, judge: Judge) -> None:
    """In the kernel: what was opened meanwhile falls silent, and the policy is as it was."""
    if daemon == "killed":
        runtime.tattle.start()
    runtime.say("block", runtime.target)
    assert "error" in runtime.ask("/api/pull")
    told = runtime.say("unblock", runtime.target, "--for", "1h")
    assert "not blocked for 1h" in told
    assert "tattle block" in told
    if daemon == "killed":
        runtime.tattle.kill()
    state = runtime.state()
    assert (state["state"], state["active"], state["mode"]) == ("lifted", False, "enforce")
    assert state["until"].endswith("Z")
    assert runtime.ask("/api/pull")["status"] == "success"
    runtime.say("unblock", runtime.target, "--for", "1s")
    until(lambda: ["it is still open"] if open_now(runtime) else [])
    before = judge.arrived()
    said = runtime.ask("/api/generate")
    assert {way: said[way] for way in NOTHING} == NOTHING
    runtime.ask("/api/pull")
    assert judge.arrived().packets == before.packets
    state = runtime.state()
    assert (state["until"], state["active"], state["mode"]) == (None, True, "enforce")


def test_a_lift_survives_the_daemon_that_comes_back(runtime: Runtime) -> None:
    """A successor leaves it as it is; `block` ends it, `unblock` makes it last."""
    runtime.tattle.start()
    runtime.say("block", runtime.target)
    runtime.say("unblock", runtime.target, "--for", "1h")
    ends = runtime.state()["until"]
    runtime.tattle.kill()
    runtime.tattle.start()
    kept = datetime.fromisoformat(runtime.state()["until"])
    assert abs(kept - datetime.fromisoformat(ends)) < timedelta(seconds=1)
    assert open_now(runtime)
    runtime.say("block", runtime.target)
    assert (runtime.state()["active"], runtime.state()["until"]) == (True, None)
    assert not open_now(runtime)
    runtime.say("unblock", runtime.target, "--for", "1h")
    runtime.say("unblock", runtime.target)
    assert open_now(runtime)
    assert runtime.target not in {one["target"] for one in runtime.tattle.ask("status")["targets"]}


@pytest.mark.parametrize("rule", [f"{PEER4}:9/udp+pull", "@internet+pull"])
def test_what_is_asked_for_at_once_gets_out(rule: str, runtime: Runtime, judge: Judge) -> None:
    """The request is counted before the runtime can read it: its very first act is allowed, 150 times."""
    runtime.say("block", runtime.target, "--allow", rule)
    before = judge.arrived()
    said = [runtime.ask(path) for _ in range(150) for path in ("/api/pull?now", "/api/generate?now")]
    assert [one["sent"] for one in said] == [1, 0] * 150
    assert judge.arrived().packets - before.packets == 150
