"""What a runtime is doing: the kernel's word against that of the server and of its clients."""

from __future__ import annotations

import json
import random
import signal
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.daemon import PATIENCE, Tattle, events_lost, until
from tests.support.network import CLIENT4, CLIENT6, PEER4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab, Program

SLACK = 0.05
"""Seconds by which a phase may be off: what the project promises."""
INFERENCE, PULL, ACCOUNT, IDLE = "inference", "pull", "account", "idle"
PATHS = {
    "/api/chat": INFERENCE,
    "/api/generate": INFERENCE,
    "/v1/chat/completions": INFERENCE,
    "/api/pull": PULL,
    "/api/experimental/web_search": ACCOUNT,
    "/api/tags": IDLE,
    "/api/chatter": IDLE,
}
HOWS = (
    "length",
    "empty",
    "none",
    "unchanged",
    "chunked",
    "joined",
    "torn",
    "continue",
    "slow head",
    "long head",
)


class Runtime:
    """A program that serves ollama's API; it, or its cgroup, is called so."""

    def __init__(self, lab: Lab, cgroup: Path, name: str | None = None) -> None:
        self.lab = lab
        self.cgroup = cgroup
        self.name = name
        self.program: Program | None = None
        self.start()

    def start(self) -> None:
        """Start it; nothing listens yet."""
        self.program = self.lab.start("api.py", name=self.name, cgroup=self.cgroup)

    def ask(self, **order: object) -> dict[str, Any]:
        """Have it do something."""
        assert self.program is not None
        self.program.go(json.dumps(order))
        return self.program.ready()

    def listen(self, host: str) -> int:
        """Have it listen."""
        return int(self.ask(do="listen", host=host)["port"])

    def kill(self, number: int) -> None:
        """End it by a signal."""
        assert self.program is not None
        self.program.process.send_signal(number)
        self.program.process.wait(PATIENCE)


class Scene(NamedTuple):
    """A daemon that watches a runtime."""

    lab: Lab
    tattle: Tattle
    runtime: Runtime
    target: str

    def gauge(self) -> dict[str, float]:
        """Read the phases of the target as a monitor does."""
        url = f"http://127.0.0.1:{self.tattle.port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE) as page:
            lines = page.read().decode().splitlines()
        mine = [line for line in lines if line.startswith("tattle_phase_active{") and self.target in line]
        return {line.partition('phase="')[2].partition('"')[0]: float(line.split()[-1]) for line in mine}

    def settles(self, phase: str) -> None:
        """Wait until the target is in a phase, with nothing in flight that tells another."""

        def lacking() -> list[str]:
            now = self.gauge()
            wanted = {name: float(name == phase) for name in now}
            return [] if now == wanted else [f"{now}, not {phase}"]

        until(lacking)

    def flows(self, port: int) -> dict[str, dict[str, Any]]:
        """Give the runtime's own flows to a port, by phase."""
        assert self.runtime.program is not None
        comm = self.runtime.program.name
        rows = [row for row in self.tattle.flows(comm) if row["remote_port"] == port]
        assert {row["direction"] for row in rows} <= {"out"}
        return {row["phase"]: row for row in rows}


@pytest.fixture(scope="module")
def scene(lab: Lab, scratch: Path) -> Iterator[Scene]:
    """A daemon and a runtime that is up since long enough."""
    cgroup = lab.cgroup(f"lab-{lab.token}/ollama.service")
    target = f"cgroup:{lab.cgroup_path(cgroup)}"
    tattle = Tattle(scratch, "--target", target)
    try:
        tattle.start()
        made = Scene(lab, tattle, Runtime(lab, cgroup), target)
        made.settles("startup")
        made.runtime.listen("127.0.0.1")
        made.settles(IDLE)
        yield made
        tattle.stop()
    finally:
        tattle.remove()


def test_asking_for_its_settings_is_no_request_of_a_user(scene: Scene) -> None:
    """`tattle targets` asks the runtime where it listens, and no event tells of it; of a user's it does."""
    assert scene.runtime.program is not None
    port = scene.runtime.listen("127.0.0.1")
    found = scene.tattle.ask("targets")["targets"]
    (one,) = [one for one in found if f"cgroup:{one['cgroup']}" == scene.target]
    assert {"address": "127.0.0.1", "port": port, "source": "listening"} in one["api"]
    records = scene.runtime.ask(do="records")["records"]
    asked = [record for record in records if record["path"] == "/api/status"]
    assert [record["client"].split()[0] for record in asked] == ["127.84.84.84"]
    plain = {"method": "GET", "target": "/api/status", "how": "length"}
    called(scene, {"calls": [{"host": "127.0.0.1", "port": port, "requests": [plain]}]})
    until(lambda: [] if len(told_of(scene, "/api/status")) == 2 else ["the user's question is not told yet"])
    assert {event["remote_addr"] for event in told_of(scene, "/api/status")} == {"127.0.0.1"}


def told_of(scene: Scene, path: str) -> list[dict[str, Any]]:
    """Return the events of requests for a path: one at its beginning, one at its end."""
    events = scene.tattle.events()
    return [event for event in events if event["event"] == "request" and event["path"] == path]


def stamp(event: dict[str, Any]) -> float:
    """Give an event's time in seconds (UTC)."""
    return datetime.fromisoformat(event["ts"]).timestamp()


def called(scene: Scene, order: dict[str, Any], **where: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - of start()
    """Let clients call and return what they asked, in what order and when."""
    _, result = scene.lab.run("clients.py", **order, **where)
    found: list[dict[str, Any]] = result["requests"]
    return found


def windows(scene: Scene, calls: int) -> dict[tuple[str, int], dict[str, Any]]:
    """Give each request as the log tells it, by its connection's client and its number there."""
    assert scene.runtime.program is not None
    comm = scene.runtime.program.name

    def told() -> list[dict[str, Any]]:
        return [one for one in scene.tattle.events(comm) if one["event"] == "request"]

    until(lambda: [] if len(told()) >= 2 * calls else [f"{len(told())} events of {calls} requests"])
    found: dict[tuple[str, int], dict[str, Any]] = {}
    begun: dict[str, int] = {}
    over: dict[str, int] = {}
    for event in told():
        client, is_end = f"{event['remote_addr']} {event['remote_port']}", event["duration_ms"] is not None
        counts = over if is_end else begun
        number = counts[client] = counts.get(client, -1) + 1
        window = found.setdefault((client, number), {})
        window |= {"end": stamp(event)} if is_end else {"begin": stamp(event), "path": event["path"]}
        window.setdefault("phases", []).append(event["phase"])
    return found


def mixed(rng: random.Random, ports: dict[str, int]) -> list[dict[str, Any]]:
    """Plan 200 requests of all kinds on 60 connections, from five clients' worth of addresses."""
    hows = [how for how in HOWS for _ in range(20)]
    rng.shuffle(hows)
    plan: list[dict[str, Any]] = []
    while hows:
        requests = [one_request(rng, hows.pop()) for _ in range(min(len(hows), rng.choice((1, 2, 4, 6))))]
        host = rng.choice(list(ports))
        plan.append({"host": host, "port": ports[host], "requests": requests})
    return plan


def one_request(rng: random.Random, how: str) -> dict[str, Any]:
    """Plan one: what is asked, how it is answered, and how long that takes."""
    path = rng.choice(list(PATHS))
    one = {"method": "GET" if path == "/api/tags" else "POST", "target": path, "how": how}
    one |= {"wait": rng.choice((0, 0.01, 0.1, 0.2)), "body": rng.choice((0, 50, 4000, 60_000))}
    if how == "length" and rng.random() < 0.3:
        one |= {"method": "HEAD", "body": 0}
    if rng.random() < 0.3:
        one["target"] += "?prompt=POST%20/api/pull"
    return one


def test_phases_of_two_hundred_requests_are_those_that_the_server_had(scene: Scene) -> None:
    """Each window begins between the client's word and the server's ear, and ends likewise: within 50 ms."""
    near = {host: scene.runtime.listen(host) for host in ("127.0.0.1", "::1")}
    far = {host: scene.runtime.listen(host) for host in (CLIENT4, CLIENT6)}
    rng = random.Random(7)  # noqa: S311 - a plan, no secret
    scene.tattle.mark()
    plans = mixed(rng, near | far)
    within = [one for one in plans if one["host"] in near]
    beyond = [one for one in plans if one["host"] in far]
    asked = called(scene, {"calls": within, "at_once": 8})
    asked += called(scene, {"calls": beyond, "at_once": 8}, namespace=scene.lab.peer_ns)
    assert len(asked) == 200
    told = windows(scene, len(asked))
    told_truly(scene, asked, told)
    assert not events_lost(scene.tattle)
    scene.settles(IDLE)


def told_truly(
    scene: Scene, asked: list[dict[str, Any]], told: dict[tuple[str, int], dict[str, Any]]
) -> None:
    """Hold each window against what the client and the server say of its request."""
    served = {(one["client"], one["number"]): one for one in scene.runtime.ask(do="records")["records"]}
    places = [(one["client"], one["number"]) for one in asked]
    pairs = zip(asked, places, strict=True)
    wrong = [text for one, at in pairs for text in compare(one, served[at], told[at])]
    assert not wrong, "\n".join(wrong)


def compare(asked: dict[str, Any], served: dict[str, Any], told: dict[str, Any]) -> list[str]:
    """Say what is wrong with a window."""
    wrong = []
    method = served["method"]
    right = PATHS[served["path"]] if method == "POST" or served["path"] == "/api/tags" else IDLE
    if (told["path"], told["phases"]) != (served["path"], [right, right]):
        wrong.append(f"{served}: told as {told}")
    if not asked["sent"] - SLACK <= told["begin"] <= served["read"] + SLACK:
        wrong.append(f"{served}: begins at {told['begin']}, sent at {asked['sent']}")
    last = served["last"] if served["last"] is not None else served["read"]
    latest = max(asked["done"], served["closed"] or 0)
    if not last - SLACK <= told["end"] <= latest + SLACK:
        wrong.append(f"{served}: ends at {told['end']}, done at {asked['done']}")
    return wrong


class Ending(NamedTuple):
    """A way in which a request ends."""

    name: str
    plan: dict[str, Any]
    requests: list[dict[str, Any]]


def post(how: str, wait: float = 0.2, **more: object) -> dict[str, Any]:
    """Ask for inference."""
    return {"method": "POST", "target": "/api/chat", "how": how, "wait": wait, "body": 200, **more}


ENDINGS = (
    Ending("answered until the connection's end", {}, [post("close")]),
    Ending("cut off by a reset", {}, [post("chunked", 2.0, leave=0.2, by="reset")]),
    Ending("left by a client that closes", {}, [post("chunked", 2.0, leave=0.2, by="close")]),
    Ending("left before anything was said", {}, [post("length", 1.0, leave=0.0, by="close")]),
    Ending("of a client that has said all it will", {}, [post("half", 0.5)]),
    Ending(
        "all in one breath",
        {"pipelined": True},
        [post("length"), post("joined"), post("empty"), post("none")],
    ),
    Ending(
        "all in one breath, without bodies",
        {"pipelined": True},
        [post("length", body=0), post("empty", body=0)],
    ),
    Ending("with a large prompt", {}, [post("chunked", body=3_000_000), post("length")]),
    Ending(
        "an answer that comes before its time", {}, [post("empty", 0.0, body=200_000), post("empty", 0.0)]
    ),
)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda one: one.name)
def test_each_request_has_one_end(scene: Scene, ending: Ending) -> None:
    """Whatever becomes of a connection: its requests are over when the server is done, and nothing stays."""
    port = scene.runtime.listen("127.0.0.1")
    scene.tattle.mark()
    asked = called(
        scene, {"calls": [{"host": "127.0.0.1", "port": port, "requests": ending.requests, **ending.plan}]}
    )
    told = windows(scene, len(ending.requests))
    until(lambda: unfinished(scene, asked))
    told_truly(scene, asked, told)
    scene.settles(IDLE)


def unfinished(scene: Scene, asked: list[dict[str, Any]]) -> list[str]:
    """Say which requests the server still serves."""
    clients = {one["client"] for one in asked}
    records = scene.runtime.ask(do="records")["records"]
    mine = [one for one in records if one["client"] in clients]
    return [str(one) for one in mine if one["last"] is None and one["closed"] is None]


def test_egress_is_counted_under_the_phase_in_which_it_leaves(scene: Scene) -> None:
    """A prompt that goes to a cloud on an old connection is inference's; a local one's is not there."""
    lab, runtime = scene.lab, scene.runtime
    sink, api = lab.peer.serve("tcp"), runtime.listen("127.0.0.1")
    wire = lab.wire("tcp", PEER4, sink)
    runtime.ask(do="upstream", host=PEER4, port=sink)
    where = {"host": "127.0.0.1", "port": api}
    local = {"method": "POST", "target": "/api/chat", "how": "chunked", "wait": 0.2, "body": 900}
    called(scene, {"calls": [where | {"requests": [local]}]})
    until(lambda: [] if scene.flows(sink) else ["nothing yet"])
    assert set(scene.flows(sink)) == {IDLE}
    called(scene, {"calls": [where | {"requests": [local | {"headers": {"X-Cloud": "40000"}}]}]})
    runtime.ask(do="send", bytes=9000)
    lab.drained(sink, 49_000)
    passed = lab.wire("tcp", PEER4, sink).less(wire)
    until(lambda: differing(scene.flows(sink), passed.bytes_out))
    rows = scene.flows(sink)
    assert set(rows) == {IDLE, INFERENCE}
    assert 40_000 < rows[INFERENCE]["bytes_out"] < 45_000
    assert 9_000 < rows[IDLE]["bytes_out"] < 12_000
    assert (rows[IDLE]["attempts"], rows[INFERENCE]["attempts"]) == (1, 0)


def differing(rows: dict[str, dict[str, Any]], bytes_out: int) -> list[str]:
    """Say how the flows' sum differs from the wire."""
    total = sum(row["bytes_out"] for row in rows.values())
    return [] if total == bytes_out else [f"{total} bytes in {rows}, {bytes_out} on the wire"]


def test_who_is_called_meanwhile_is_called_in_that_phase(scene: Scene) -> None:
    """A connection's attempt, its events and its bytes carry the phase of their moment."""
    lab, runtime = scene.lab, scene.runtime
    sink, api = lab.peer.serve("tcp"), runtime.listen("127.0.0.1")
    pull = {"method": "POST", "target": "/api/pull", "wait": 0.1, "headers": {"X-Dial": f"{PEER4} {sink}"}}
    scene.tattle.mark()
    called(scene, {"calls": [{"host": "127.0.0.1", "port": api, "requests": [pull]}]})
    runtime.ask(do="connect", host=PEER4, port=sink)
    until(lambda: [] if scene.flows(sink).keys() == {PULL, IDLE} else [str(scene.flows(sink))])
    rows = scene.flows(sink)
    assert [rows[phase]["attempts"] for phase in (PULL, IDLE)] == [1, 1]
    assert runtime.program is not None
    name = runtime.program.name

    def connects() -> list[str]:
        return [
            event["phase"]
            for event in scene.tattle.events(name)
            if event["event"] == "connect" and event["remote_port"] == sink
        ]

    until(lambda: [] if len(connects()) == 2 else [str(connects())])
    assert connects() == [PULL, IDLE]


def test_a_killed_server_leaves_nothing_in_flight_and_starts_up_again(scene: Scene) -> None:
    """SIGKILL in the middle of requests: none stays; until it listens again, and a bit longer, it starts."""
    runtime = scene.runtime
    port = runtime.listen("127.0.0.1")
    calls = [{"host": "127.0.0.1", "port": port, "requests": [post("chunked", 30.0)]} for _ in range(5)]
    clients = scene.lab.start("clients.py", calls=calls)
    until(lambda: [] if scene.gauge()[INFERENCE] == len(calls) else [str(scene.gauge())])
    runtime.kill(signal.SIGKILL)
    clients.result()
    scene.settles("startup")
    runtime.start()
    sink = scene.lab.peer.serve("tcp")
    runtime.ask(do="connect", host=PEER4, port=sink)
    runtime.listen("127.0.0.1")
    until(lambda: [] if scene.flows(sink) else ["nothing yet"])
    assert set(scene.flows(sink)) == {"startup"}
    scene.settles(IDLE)
