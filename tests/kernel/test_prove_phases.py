"""`prove` on a model runtime: what left while it answered, request by request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.test_phases import Runtime
from tests.support.network import PEER4
from tests.support.proving import Prover

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.network import Lab
    from tests.support.proving import Proof

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


UNLOOKED = "import tracer.proof.window; tracer.proof.window._Window._look = lambda _: None"


def obey(process: subprocess.Popen[str], **order: object) -> dict[str, Any]:
    """Have a program that `prove` runs do something: its standard streams are those of `prove`."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


@pytest.mark.parametrize(
    "before", [(), ("sh", "-c", 'sleep 0.3; exec "$0" "$@"')], ids=["itself", "by a shell"]
)
def test_a_runtime_that_is_run_under_prove_has_phases(
    lab: Lab, scratch: Path, before: tuple[str, ...]
) -> None:
    """`prove -- ollama serve`: the program tells what it is, however started; each request is a window.

    Nothing looks again and again: it is recognised when it begins to listen, however busy the host is.
    """
    prover = Prover(lab, scratch, f"nobody{os.getpid()}")
    sink = lab.peer.serve("tcp")
    words = (*before, *lab.program("api.py", "ollama"))
    process, report = prover.start(*words, stdin=subprocess.PIPE, change=UNLOOKED)
    api = obey(process, do="listen", host="127.0.0.1")["port"]
    obey(process, do="upstream", host=PEER4, port=sink)
    requests = [prompt(), prompt(headers={"X-Cloud": "40000"}), {"method": "POST", "target": "/api/pull"}]
    lab.run("clients.py", calls=[{"host": "127.0.0.1", "port": api, "requests": requests}])
    proof = prover.end(process, report)
    assert (proof.code, proof.verdict) == (1, "egress")
    told = [(one["phase"], one["path"]) for one in proof.report["requests"]]
    assert told == [("inference", PATH), ("inference", PATH), ("pull", "/api/pull")]
    cloud = proof.report["requests"][1]
    assert cloud["bytes_out_at_most"] >= proof.report["phases"]["inference"]["bytes_out"] > 40_000


def test_a_client_of_a_runtime_is_none(stand: Stand, tmp_path: Path) -> None:
    """`prove -- ollama run`: it will serve nobody, hence what it does is not done before it serves."""
    ollama, *_ = stand.lab.program("api.py", "ollama")
    (tmp_path / "run").write_text(f"import socket; socket.create_connection(('127.0.0.1', {stand.api}))")
    proof = stand.prover.run("env", "-C", str(tmp_path), ollama, "run")
    assert (proof.code, proof.verdict) == (0, "no-egress"), proof.err
    assert [flow["phase"] for flow in proof.flows(remote_port=stand.api)] == ["unknown"]
