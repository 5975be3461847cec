"""`prove` on a model runtime: what left while it answered, request by request."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from lab import PEER4
from proving import Prover
from test_phases import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Lab
    from proving import Proof

PATH = "/api/chat"


class Stand(Runtime):
    """A runtime with a connection to a cloud, and clients that are run under `prove`."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        super().__init__(lab, lab.cgroup(f"lab-{lab.token}/{lab.name('run')}/ollama.service"))
        self.api = self.listen("127.0.0.1")
        self.sink = lab.peer.serve("tcp")
        self.ask(do="upstream", host=PEER4, port=self.sink)
        self.prover = Prover(lab, scratch, f"nobody{os.getpid()}")
        self.target = f"cgroup:{lab.cgroup_path(self.cgroup)}"

    def prove(self, *requests: dict[str, Any]) -> Proof:
        """Let a client ask these, and prove the runtime meanwhile."""
        calls = {"calls": [{"host": "127.0.0.1", "port": self.api, "requests": list(requests)}]}
        words = [*self.lab.program("clients.py", self.lab.name("clients")), json.dumps(calls)]
        return self.prover.run(*words, options=("--target", self.target))


@pytest.fixture(scope="module")
def stand(lab: Lab, scratch: Path) -> Stand:
    """A runtime that is up."""
    assert sys.executable
    return Stand(lab, scratch)


def prompt(**more: object) -> dict[str, Any]:
    """Give a prompt that is answered in pieces."""
    return {"method": "POST", "target": PATH, "how": "chunked", "wait": 0.2, "body": 900, **more}


def test_a_local_prompt_leaves_nothing(stand: Stand) -> None:
    """Two answers, two windows of inference, no byte: the proof that it is local."""
    proof = stand.prove(prompt(), prompt())
    assert (proof.code, proof.verdict) == (0, "no-egress"), proof.report["reasons"]
    told = [(one["phase"], one["path"], one["bytes_out_at_most"]) for one in proof.report["requests"]]
    assert told == [("inference", PATH, 0)] * 2
    assert all(one["start"] < one["end"] for one in proof.report["requests"])
    assert proof.report["phases"] == {}


def test_a_cloud_prompt_is_egress_in_inference(stand: Stand) -> None:
    """The same call with a model that runs elsewhere: the prompt is seen leaving, and when."""
    cloud = prompt(headers={"X-Cloud": "40000"})
    proof = stand.prove(cloud, {"method": "GET", "target": "/api/tags"})
    assert (proof.code, proof.verdict) == (1, "egress")
    assert 40_000 < proof.report["phases"]["inference"]["bytes_out"] < 45_000
    (window,) = [one for one in proof.report["requests"] if one["phase"] == "inference"]
    assert window["bytes_out_at_most"] >= proof.report["phases"]["inference"]["bytes_out"]
    (flow,) = proof.flows(remote_port=stand.sink, phase="inference")
    assert (flow["attempts"], flow["scope"]) == (0, "internet")
    (before,) = [one for one in proof.report["preexisting_sockets"] if one["remote_port"] == stand.sink]
    assert (before["state"], before["foreign"]) == ("connected", False)
