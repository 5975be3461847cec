"""What Ollama's profile says of hosts, phases and purposes, held against what the stand-in contacts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.world.miniature.comparing import Watched, eventually, watched
from tests.world.miniature.layout import OLLAMA, PYTHON
from tests.world.miniature.tattled import tattle as running_tattle
from tracer.runtimes.keep import kept
from tracer.runtimes.profiles import SHIPPED, read
from tracer.runtimes.purposes import matches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.world.miniature.world import World

PROFILE = read((SHIPPED,))["ollama"]
API = "http://127.0.0.1:11434"


class Stage(NamedTuple):
    """What is asked of the stand-in (nothing: it has just started), and the purpose that this serves."""

    path: str
    body: dict[str, object]
    purpose: str | None


STAGES = {
    "start": Stage("", {}, "catalog"),
    "pull": Stage("/api/pull", {"model": "gemma3:270m", "stream": False}, "pull"),
    "local prompt": Stage(
        "/api/generate", {"model": "gemma3:270m", "prompt": "one, two,", "stream": False}, None
    ),
    "cloud prompt": Stage(
        "/api/chat", {"model": "gpt-oss:120b-cloud", "messages": [{"role": "user", "content": "hi"}]}, "cloud"
    ),
    "web search": Stage("/api/experimental/web_search", {"query": "x"}, "search"),
}


class Runtime(NamedTuple):
    """The stand-in, watched by a daemon of its own; `began` requests had reached the servers before it."""

    watched: Watched
    began: int


@pytest.fixture(scope="module")
def runtime(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """Run the stand-in; what it does at start is over."""
    state, began = tmp_path_factory.mktemp("tattle"), len(world.requests())
    with (
        world.group(OLLAMA),
        running_tattle(state, "--target", f"cgroup:/world/{OLLAMA}") as tattle,
        watched(world, tattle, OLLAMA) as it,
        world.running(OLLAMA, PYTHON, "-m", "tests.world.miniature.standin", ready=b"listening"),
        world.group("user"),
    ):
        eventually(lambda: _hydrated(world, began))
        yield Runtime(it, began)


def _hydrated(world: World, began: int) -> None:
    assert sum(one["path"].startswith("/api/show") for one in world.requests()[began:]) >= 6


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_contacts_what_its_purpose_keeps_and_nothing_else(runtime: Runtime, name: str) -> None:
    """Hosts by the servers that were asked, phases by tattle's own flows: both within what `--keep` opens."""
    stage, it = STAGES[name], runtime.watched
    world = it.world
    before = len(world.requests()) if stage.path else runtime.began
    counted = {_key(flow): flow["payload_out"] for flow in it.settled()} if stage.path else {}
    if stage.path:
        done = world.run("user", "curl", "-sSf", "-d", json.dumps(stage.body), API + stage.path)
        assert done.returncode == 0, done.stderr
    hosts = {request["host"] for request in world.requests()[before:]}
    open_ = kept(PROFILE, [stage.purpose]) if stage.purpose else ()
    assert not {host for host in hosts if not any(matches(one.name, host) for one in open_)}
    assert bool(hosts) is bool(stage.purpose)
    moved = [flow for flow in it.settled() if flow["payload_out"] > counted.get(_key(flow), 0)]
    https = [flow for flow in moved if flow["remote_port"] == 443]
    assert not [flow for flow in https if flow["unexpected"]]
    assert {flow["phase"] for flow in https} <= {phase for one in open_ for phase in one.phases}


def _key(flow: dict[str, object]) -> tuple[object, ...]:
    return tuple(flow[name] for name in ("pid", "remote_addr", "remote_port", "proto", "phase", "local_addr"))
