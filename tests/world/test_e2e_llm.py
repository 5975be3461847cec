"""tattle tells, of real local-LLM programs, what stays on the machine and what does not."""

import json
from collections.abc import Iterator

import pytest

from tests.world.miniature.comparing import Watched, carried, eventually, watched
from tests.world.miniature.layout import HOST_V4, LLAMA, MODEL, NET, NET_V4, OLLAMA, PYTHON, addresses
from tests.world.miniature.tattled import Tattle
from tests.world.miniature.truth import Wire, total
from tests.world.miniature.world import World

COUNTING = "one, two, three, four, five,"
BLOB_HOST = "dd20bb891979d25aebc8bec07b2b3bbc.r2.cloudflarestorage.com"
SECRET = "a secret of some length, " * 400


@pytest.fixture(scope="module")
def ollama_seen(world: World, tattle: Tattle) -> Iterator[Watched]:
    """Run the stand-in for `ollama serve`, watched from before its first instruction."""
    with (
        watched(world, tattle, OLLAMA) as it,
        world.running(OLLAMA, PYTHON, "-m", "tests.world.miniature.standin", ready=b"listening"),
        world.group("user"),
    ):
        yield it


def to(flows: list[dict[str, object]], name: str) -> Wire:
    """Return what FLOWS carried to the addresses of NAME, port 443."""
    ends = addresses(name)
    return total(
        carried(flow) for flow in flows if flow["remote_addr"] in ends and flow["remote_port"] == 443
    )


def during(phase: str, flows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the flows of a phase."""
    return [flow for flow in flows if flow["phase"] == phase]


def test_llama_server_answers_and_nothing_leaves(world: World, tattle: Tattle) -> None:
    """A local API that is asked on loopback and from the network sends replies, and starts no connection."""
    prompt = json.dumps({"prompt": COUNTING, "n_predict": 8, "temperature": 0})
    serve = (
        PYTHON,
        "-m",
        "tests.world.miniature.llama_server",
        "-m",
        MODEL,
        "--host",
        "0.0.0.0",
        "--port",
        "8091",
    )
    ask = ("curl", "-sS", "-d", prompt)
    with watched(world, tattle, LLAMA) as here, world.group("visitor"):
        with world.running(LLAMA, *serve, ready=b"listening"):
            for url, namespace in (("http://127.0.0.1:8091", "world-host"), (f"http://{HOST_V4}:8091", NET)):
                answer = world.run("visitor", *ask, f"{url}/completion", namespace=namespace)
                assert "six, seven" in json.loads(answer.stdout)["content"]
        (reply,) = here.settled()
        everything = tattle.flows(here.cgroup)
    assert (reply["comm"], reply["remote_addr"], reply["direction"]) == ("llama-server", NET_V4, "in")
    assert {flow["scope"] for flow in everything} == {"internet", "loopback"}
    assert {flow["target"] for flow in everything} == {f"cgroup:{here.cgroup}"}
    assert {flow["direction"] for flow in everything} == {"in"}


def test_ollama_phones_home_at_start(ollama_seen: Watched) -> None:
    """Before anybody has used it, it has asked a name server and ollama.com, and tattle says so."""

    def hydrated() -> None:
        paths = [one["path"] for one in ollama_seen.world.requests() if one["agent"].startswith("ollama/")]
        assert sum(path.startswith("/api/show") for path in paths) == 6

    eventually(hydrated)
    flows = ollama_seen.settled()
    assert {flow["comm"] for flow in flows} == {"ollama"}
    assert {flow["remote_port"] for flow in flows} == {53, 443}
    assert {flow["remote_addr"] for flow in flows if flow["remote_port"] == 443} <= set(
        addresses("ollama.com")
    )


def test_ollama_pull_is_counted_to_the_byte(ollama_seen: Watched) -> None:
    """The model comes from the blob host; what the client and the server say to each other is loopback."""
    assert ollama_seen.world.client("user", "pull", "gemma3:270m") == "success"
    flows = ollama_seen.settled()
    assert to(flows, BLOB_HOST).bytes_in > MODEL.stat().st_size
    assert to(flows, "registry.ollama.ai").bytes_out > 0
    local = [flow for flow in ollama_seen.tattle.flows(ollama_seen.cgroup) if flow["scope"] == "loopback"]
    assert local
    assert not ollama_seen.tattle.flows("/world/user")


def test_local_inference_sends_nothing(ollama_seen: Watched) -> None:
    """A prompt for a local model, through the real client, adds no byte to any other host."""
    assert ollama_seen.world.client("user", "pull", "gemma3:270m") == "success"
    before = total(map(carried, ollama_seen.settled()))
    assert "six, seven" in str(ollama_seen.world.client("user", "generate", "gemma3:270m", COUNTING))
    after = ollama_seen.settled()
    assert total(map(carried, after)) == before
    assert not during("inference", after)
    asked = [one for one in ollama_seen.tattle.events(ollama_seen.cgroup) if one["event"] == "request"]
    assert {one["comm"] for one in asked} == {"ollama"}, "its child's request is the same one"
    phases = {(one["comm"], one["path"]): one["phase"] for one in asked}
    assert phases["ollama", "/api/generate"] == "inference"


def test_cloud_inference_sends_the_prompt(ollama_seen: Watched) -> None:
    """A prompt for a cloud model is seen to leave, also on a connection opened long before."""
    before = ollama_seen.settled()
    ollama_seen.world.client("user", "chat", "gpt-oss:120b-cloud", SECRET)
    after = ollama_seen.settled()
    assert to(after, "ollama.com").bytes_out - to(before, "ollama.com").bytes_out > len(SECRET)
    assert to(during("inference", after), "ollama.com").bytes_out > len(SECRET)
    rest = [to(during("idle", flows), "ollama.com").bytes_out for flows in (before, after)]
    assert rest[1] - rest[0] < len(SECRET) / 10


def test_hub_download(world: World, tattle: Tattle) -> None:
    """huggingface_hub's traffic is its own, to the hub and to its CDN."""
    with watched(world, tattle, "hub") as here:
        assert world.client("hub", "hub", MODEL.name) == MODEL.stat().st_size
        flows = here.settled()
    assert {flow["comm"] for flow in flows} == {"python"}
    assert to(flows, "cdn-lfs.hf.co").bytes_in > MODEL.stat().st_size
    assert to(flows, "huggingface.co").bytes_out > 0
