"""Whose bytes are they while a pull and prompts are answered at once: each connection has its phase."""

from __future__ import annotations

import base64
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.test_phases import IDLE, INFERENCE, PULL, Runtime, Scene, called
from tests.support import hellos
from tests.support.daemon import Tattle, until
from tests.support.network import PEER4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab

REQUEST_LEN = 24
"""Bytes by which the lab's traffic programs open a transfer."""


@pytest.fixture
def scene(lab: Lab, scratch: Path) -> Iterator[Scene]:
    """A daemon and a runtime that is up since long enough."""
    cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('apart')}/ollama.service")
    target = f"cgroup:{lab.cgroup_path(cgroup)}"
    tattle = Tattle(scratch, "--target", target)
    try:
        made = Scene(lab, tattle.start(), Runtime(lab, cgroup), target)
        made.runtime.ask(do="listen", host="127.0.0.1", mptcp=True)
        made.settles(IDLE)
        yield made
        tattle.stop()
    finally:
        tattle.remove()


def fed(path: str, wait: float, port: int, pieces: str, name: str) -> dict[str, Any]:
    """Plan a request that has a connection of its own, and says a name on it."""
    hello = base64.b64encode(hellos.client(name)).decode()
    headers = {"X-Feed": f"{PEER4} {port} {pieces}", "X-Hello": hello}
    return {"method": "POST", "target": path, "wait": wait, "headers": headers}


def plain(rng: random.Random) -> dict[str, Any]:
    """Plan a local prompt, or a question that tells no phase."""
    path = rng.choice(("/api/chat", "/api/generate", "/api/tags"))
    how = rng.choice(("length", "chunked", "empty"))
    return {"method": "POST", "target": path, "how": how, "wait": rng.choice((0.02, 0.1, 0.2))}


def by_phase(scene: Scene, port: int) -> dict[str, int]:
    """Return the data that went to a port, by phase, where there was any."""
    return {phase: row["payload_out"] for phase, row in scene.flows(port).items() if row["payload_out"]}


def received(scene: Scene, port: int) -> int:
    """Return what the receiver of a port has read."""
    return scene.lab.peer.stats(port)["bytes_in"]


def is_all(scene: Scene, port: int, phase: str) -> list[str]:
    """Complain unless all data that a receiver has read went there in one phase."""
    found, right = by_phase(scene, port), {phase: received(scene, port)}
    return [] if found == right else [f"{found}, not {right}"]


def test_a_pull_amid_two_hundred_requests_keeps_its_bytes(scene: Scene) -> None:
    """Prompts, some of them to a cloud, and a pull at once: the receivers' bytes, each under its phase.

    Until the name that a client says is read, up to its hello, a connection that was opened while both were
    in flight may count as a prompt's.
    """
    rng = random.Random(15)  # noqa: S311 - a plan, no secret
    port = scene.runtime.listen("127.0.0.1")
    hub, cloud = scene.lab.peer.serve(), scene.lab.peer.serve()
    prompts = [plain(rng) for _ in range(180)]
    prompts += [fed("/api/chat", 0.3, cloud, "4 1500", "ollama.com") for _ in range(20)]
    rng.shuffle(prompts)
    calls = [{"host": "127.0.0.1", "port": port, "requests": prompts[at::20]} for at in range(20)]
    long = {"method": "POST", "target": "/api/chat", "how": "chunked", "wait": 1.0}
    pull = fed("/api/pull", 3.0, hub, "60 9000", "registry.ollama.ai")
    calls += [
        {"host": "127.0.0.1", "port": port, "requests": [long]},
        {"host": "127.0.0.1", "port": port, "requests": [pull]},
    ]
    called(scene, {"calls": calls})
    scene.settles(IDLE)
    until(lambda: [] if sum(by_phase(scene, hub).values()) == received(scene, hub) else ["more"])
    hello = REQUEST_LEN + len(hellos.client("registry.ollama.ai"))
    pulled = by_phase(scene, hub)
    assert pulled[PULL] >= received(scene, hub) - hello, pulled
    assert pulled.keys() <= {PULL, INFERENCE}
    until(lambda: is_all(scene, cloud, INFERENCE))
    assert received(scene, cloud) > 20 * 6000


def test_a_pull_that_was_first_keeps_every_byte(scene: Scene) -> None:
    """Its connection was opened while nothing else was in flight: no name is needed to tell."""
    port = scene.runtime.listen("127.0.0.1")
    hub = scene.lab.peer.serve()
    feed = {"X-Feed": f"{PEER4} {hub} 20 9000"}
    pull = {"method": "POST", "target": "/api/pull", "wait": 2.0, "headers": feed}
    started = scene.lab.start("clients.py", calls=[{"host": "127.0.0.1", "port": port, "requests": [pull]}])
    until(lambda: [] if scene.flows(hub) else ["nothing yet"])
    chat = {"method": "POST", "target": "/api/chat", "how": "chunked", "wait": 1.0}
    called(scene, {"calls": [{"host": "127.0.0.1", "port": port, "requests": [chat]}]})
    started.result()
    until(lambda: is_all(scene, hub, PULL))


def test_a_request_that_is_passed_on_to_a_child_is_one(scene: Scene) -> None:
    """The parent's prompt is told, its child's /completion is part of it; one from elsewhere is told."""
    port = scene.runtime.listen("127.0.0.1")
    child = int(scene.runtime.ask(do="child")["port"])
    scene.tattle.mark()
    chat = {"method": "POST", "target": "/api/chat", "wait": 1.0, "headers": {"X-Pass": str(child)}}
    started = scene.lab.start("clients.py", calls=[{"host": "127.0.0.1", "port": port, "requests": [chat]}])
    until(lambda: [] if scene.gauge()[INFERENCE] else ["not asked yet"])
    assert scene.gauge()[INFERENCE] == 1
    started.result()
    scene.settles(IDLE)
    direct = {"method": "POST", "target": "/completion"}
    called(scene, {"calls": [{"host": "127.0.0.1", "port": child, "requests": [direct]}]})

    def paths() -> list[str]:
        return [one["path"] for one in scene.tattle.events() if one["event"] == "request"]

    until(lambda: [] if len(paths()) == 4 else [str(paths())])
    assert paths() == ["/api/chat"] * 2 + ["/completion"] * 2
    scene.settles(IDLE)
