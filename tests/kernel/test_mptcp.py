"""A runtime that listens over MPTCP, as every Go program does since 1.24: seen whichever was there first."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.test_phases import Runtime, Scene, called, post
from tests.support.daemon import Tattle, until
from tests.support.network import CLIENT4, PEER4
from tests.support.proving import Prover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab, Program

IDLE, INFERENCE, STARTUP = "idle", "inference", "startup"
KINDS = pytest.mark.parametrize("mptcp", [False, True], ids=["by TCP", "by MPTCP"])


@pytest.fixture
def order(lab: Lab, scratch: Path) -> Iterator[Scene]:
    """A runtime that runs, and a daemon that does not yet."""
    cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('mptcp')}/ollama.service")
    target = f"cgroup:{lab.cgroup_path(cgroup)}"
    tattle = Tattle(scratch, "--target", target)
    try:
        yield Scene(lab, tattle, Runtime(lab, cgroup), target)
        tattle.stop()
    finally:
        tattle.remove()


def listen(scene: Scene, host: str) -> int:
    """Have the runtime listen over MPTCP."""
    return int(scene.runtime.ask(do="listen", host=host, mptcp=True)["port"])


def asks(scene: Scene, host: str, port: int, *requests: dict[str, Any], mptcp: bool = False) -> None:
    """Let a client ask these on one connection, over the wire where the host is not loopback."""
    plan = {"calls": [{"host": host, "port": port, "requests": list(requests), "mptcp": mptcp}]}
    where = {} if host == "127.0.0.1" else {"namespace": scene.lab.peer_ns}
    called(scene, plan, **where)


def requests(scene: Scene) -> list[tuple[str, bool]]:
    """Return the requests that the log tells of: their phase, and whether it is their end."""
    assert scene.runtime.program is not None
    told = scene.tattle.events(scene.runtime.program.name)
    return [(one["phase"], one["duration_ms"] is not None) for one in told if one["event"] == "request"]


def is_told(scene: Scene, count: int) -> None:
    """Wait until so many prompts have begun and ended, and nothing is in flight."""
    wanted = [(INFERENCE, False), (INFERENCE, True)] * count
    until(lambda: [] if sorted(requests(scene)) == sorted(wanted) else [str(requests(scene))])
    scene.settles(IDLE)


@KINDS
def test_a_listener_that_is_older_than_tattle_is_followed(order: Scene, *, mptcp: bool) -> None:
    """Listen, then start tattle: it is idle; prompts are told, and whom it serves is counted."""
    near, far = listen(order, "127.0.0.1"), listen(order, CLIENT4)
    order.tattle.start()
    order.settles(IDLE)
    asks(order, "127.0.0.1", near, post("length"), post("chunked"), mptcp=mptcp)
    asks(order, CLIENT4, far, post("length"), mptcp=mptcp)
    is_told(order, 3)
    until(lambda: unfinished(order))
    order.settles(IDLE)
    served = [row for row in order.tattle.flows(*names(order)) if row["scope"] != "loopback"]
    assert {row["direction"] for row in served} == {"in"}
    assert sum(row["established"] for row in served) == 1


@KINDS
def test_a_listener_that_is_younger_than_tattle_is_followed(order: Scene, *, mptcp: bool) -> None:
    """Start tattle, then listen: starting up until then, and again when nothing listens any more."""
    order.tattle.start()
    order.settles(STARTUP)
    near = listen(order, "127.0.0.1")
    order.settles(IDLE)
    asks(order, "127.0.0.1", near, post("length"), mptcp=mptcp)
    is_told(order, 1)
    order.runtime.ask(do="hush")
    order.settles(STARTUP)
    listen(order, "127.0.0.1")
    order.settles(IDLE)


def test_a_second_start_is_a_start(order: Scene) -> None:
    """Whom it calls while it starts is called in that phase each time: when tattle is older, and younger."""
    listen(order, "127.0.0.1")
    order.tattle.start()
    order.settles(IDLE)
    for _ in range(2):
        assert order.runtime.program is not None
        order.runtime.kill(9)
        order.settles(STARTUP)
        order.runtime.start()
        sink = order.lab.peer.serve("tcp")
        order.runtime.ask(do="connect", host=PEER4, port=sink)
        listen(order, "127.0.0.1")
        until(lambda sink=sink: [] if order.flows(sink) else ["nothing yet"])  # type: ignore[misc]
        assert set(order.flows(sink)) == {STARTUP}
        order.settles(IDLE)


@KINDS
def test_a_connection_that_is_older_than_tattle_ends(order: Scene, *, mptcp: bool) -> None:
    """A client that was there before asks, and goes away before its answer: nothing stays in flight."""
    near = listen(order, "127.0.0.1")
    left = post("chunked", 30.0, leave=0.1, by="close")
    plan = {"host": "127.0.0.1", "port": near, "requests": [post("length", 0.0), left]}
    clients: Program = order.lab.start("clients.py", calls=[plan | {"mptcp": mptcp, "pause": 1}])
    clients.ready()
    order.tattle.start()
    clients.go()
    until(lambda: [] if (INFERENCE, True) in requests(order) else [str(requests(order))])
    assert requests(order) == [(INFERENCE, False), (INFERENCE, True)]
    order.settles(IDLE)
    clients.result()


def test_a_proof_of_a_server_that_is_older_is_complete(order: Scene, scratch: Path) -> None:
    """Its listener and a connection of its own, both of MPTCP's and open before: what they carry is known."""
    port, sink = listen(order, "127.0.0.1"), order.lab.peer.serve("mptcp")
    prover = Prover(order.lab, scratch, f"nobody{os.getpid()}")
    target = ("--target", order.target)
    asked = {"calls": [{"host": "127.0.0.1", "port": port, "requests": [post("length", 0.1)]}]}
    client = order.lab.program("clients.py", order.lab.name("client"))
    proof = prover.run(*client, json.dumps(asked), options=target)
    assert (proof.code, proof.verdict) == (0, "no-egress"), proof.report["reasons"]
    assert [one["phase"] for one in proof.report["requests"]] == [INFERENCE]
    holder = order.lab.start("keep.py", cgroup=order.runtime.cgroup, host=PEER4, port=sink, mptcp=True)
    holder.ready()
    process, report = prover.start("sh", "-c", "echo; read _", options=target, stdin=-1)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    holder.go("777")
    holder.ready()
    order.lab.drained(sink, 777)
    process.stdin.write("\n")
    process.stdin.flush()
    proof = prover.end(process, report)
    assert (proof.code, proof.verdict) == (1, "egress"), proof.report["reasons"]
    (flow,) = proof.flows(remote_port=sink)
    assert (flow["payload_out"], flow["direction"], flow["comm"]) == (777, "out", holder.name)


def unfinished(order: Scene) -> list[str]:
    """Return what the server has not let go of yet: a connection that ends is no listener's end."""
    held = order.runtime.ask(do="connections")["open"]
    return [f"{held} connections"] if held else []


def names(order: Scene) -> list[str]:
    """Return the runtime's name."""
    assert order.runtime.program is not None
    return [order.runtime.program.name]
