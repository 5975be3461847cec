"""The miniature internet keeps its own promises, without tattle: what the other tests stand on."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.miniature.comparing import eventually
from tests.world.miniature.layout import (
    DNS_V4,
    DNS_V6,
    HOST,
    HOST_LINK,
    MODEL,
    NET,
    NET_LINK,
    NET_V4,
    PYTHON,
    addresses,
)
from tests.world.miniature.truth import Wire, total
from tests.world.miniature.world import World

SEND = "from socket import *; socket(AF_INET, SOCK_DGRAM).sendto(bytes(1000), ('198.51.100.1', 5000))"
FLAG = {"udp": "+notcp", "tcp": "+tcp"}
COUNTING = "one, two, three, four, five,"


@pytest.fixture(scope="module", name="earlier")
def requests_before_these_tests(world: World) -> int:
    """Count the requests that other tests made."""
    return len(world.requests())


@pytest.fixture(scope="module")
def ollama(world: World, earlier: int) -> Iterator[World]:
    """Run a stand-in for `ollama serve`, whose first request comes after the EARLIER ones."""
    assert earlier >= 0
    with (
        world.group("ollama"),
        world.running("ollama", PYTHON, "-m", "tests.world.miniature.standin", ready=b"listening"),
    ):
        yield world


@pytest.fixture(name="group")
def a_group(world: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """Make a cgroup of this test's own; its name below /world."""
    name = request.node.name.partition("[")[0]
    with world.group(name):
        yield name


def test_no_packet_can_leave(world: World) -> None:
    """The namespaces are linked to each other and to nothing else, the host's included."""
    for namespace, link in ((HOST, HOST_LINK), (NET, NET_LINK)):
        listed = json.loads(
            subprocess.run(["ip", "-n", namespace, "-j", "link"], check=True, capture_output=True).stdout
        )
        assert {entry["ifname"] for entry in listed} == {"lo", link}
    assert world.run("", "ping", "-c1", "-w1", "192.0.2.1").returncode != 0


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("server", [DNS_V4, DNS_V6])
def test_names_resolve(world: World, group: str, server: str, transport: str) -> None:
    """DNS answers over UDP and TCP, IPv4 and IPv6, through a CNAME, and writes the query down."""
    before = len(world.queries())
    answer = world.run(group, "dig", f"@{server}", FLAG[transport], "+short", "cdn-lfs.hf.co", "AAAA")
    assert answer.stdout.split() == ["edge.cdn.example.", "2001:db8:2::30"]
    (query,) = world.queries()[before:]
    asked = (query["name"], query["type"], query["proto"])
    assert asked == ("cdn-lfs.hf.co", "AAAA", transport)


def test_answers_rotate(world: World, group: str) -> None:
    """A name with many addresses does not lead to the same one each time."""
    answers = {world.run(group, "dig", "+short", "huggingface.co").stdout.split()[0] for _ in range(4)}
    assert len(answers) == 4


def test_other_names_do_not_exist(world: World, group: str) -> None:
    """A name that is not in the table is NXDOMAIN."""
    assert "NXDOMAIN" in world.run(group, "dig", "elsewhere.example").stdout


@pytest.mark.parametrize(("family", "name"), [("-4", "v4only.example"), ("-6", "v6only.example")])
def test_sites_answer_over_tls(world: World, group: str, family: str, name: str) -> None:
    """A client that checks certificates gets the page; the log names address, connection and bytes."""
    done = world.run(
        group, "curl", "-sS", family, "-w", "%{local_ip}:%{local_port}", f"https://{name}/bytes/5000"
    )
    source = done.stdout.lstrip("\0").replace("[", "").replace("]", "")
    (request,) = [one for one in world.requests() if one["source"] == source]
    assert request["address"] in addresses(name)
    assert (request["host"], request["status"], request["body_out"]) == (name, 200, 5000)


def test_nobody_serves_the_dead_address(world: World, group: str) -> None:
    """dead.example has an address at which nothing listens."""
    assert world.run(group, "curl", "-sS", "-m", "1", "https://dead.example").returncode != 0


def test_wire_counts_whole_ip_packets(world: World, group: str) -> None:
    """A datagram of 1,000 bytes is one packet of 1,028: headers of 20 (RFC 791) and 8 (RFC 768)."""
    world.run(group, PYTHON, "-c", SEND)
    sent = total(
        wire for key, wire in world.wire().items() if (key.remote, key.remote_port) == (NET_V4, 5000)
    )
    assert sent == Wire(bytes_out=1028, packets_out=1)


def test_wire_counts_segments_not_super_packets(world: World, group: str) -> None:
    """A megabyte received is at least 691 packets: none carries more than 1,448 bytes (MTU 1,500)."""
    said = "%{remote_ip} %{local_port}"
    done = world.run(
        group, "curl", "-sS", "-o", "/dev/null", "-w", said, "https://v4only.example/bytes/1000000"
    )
    remote, port = done.stdout.split()
    (got,) = [
        wire for key, wire in world.wire().items() if (key.remote, key.local_port) == (remote, int(port))
    ]
    assert got.packets_in >= 1_000_000 / 1448
    assert got.bytes_in >= 1_000_000 + 52 * got.packets_in - 52 * 10


def test_llama_server_answers_a_prompt(world: World, group: str) -> None:
    """A real llama.cpp server with a real model continues a sentence sensibly."""
    serve = (PYTHON, "-m", "tests.world.miniature.llama_server", "-m", MODEL, "--port", "8091")
    prompt = json.dumps({"prompt": COUNTING, "n_predict": 8, "temperature": 0})
    with world.running(group, *serve, ready=b"listening") as server:
        assert "python" in Path(f"/proc/{server.pid}/exe").readlink().name
        answer = world.run(group, "curl", "-sS", "-d", prompt, "http://127.0.0.1:8091/completion")
    assert "six, seven" in json.loads(answer.stdout)["content"]


def test_ollama_phones_home_at_start(ollama: World, earlier: int) -> None:
    """The stand-in asks ollama.com for recommendations, the list and each cloud model, unasked."""

    def complete() -> list[str]:
        paths = [request["path"].partition("?")[0] for request in ollama.requests()[earlier:]]
        assert paths.count("/api/show") == 6
        return paths

    assert {"/api/experimental/model-recommendations", "/api/tags"} <= set(eventually(complete))


def test_ollama_pulls_and_generates(ollama: World, group: str) -> None:
    """The real client pulls the real model and gets a real answer, for which nothing leaves."""
    assert ollama.client(group, "pull", "gemma3:270m") == "success"
    before = len(ollama.requests())
    assert "six, seven" in str(ollama.client(group, "generate", "gemma3:270m", COUNTING))
    assert len(ollama.requests()) == before


def test_cloud_prompt_leaves(ollama: World, group: str) -> None:
    """A prompt for a cloud model is sent to ollama.com, as the log shows."""
    before = len(ollama.requests())
    answer = ollama.client(group, "chat", "gpt-oss:120b-cloud", "a secret" * 100)
    assert str(answer).startswith("cloud0 ")
    (request,) = ollama.requests()[before:]
    assert (request["host"], request["path"].partition("?")[0]) == ("ollama.com", "/api/chat")
    assert request["body_in"] > 800


def test_hub_downloads(world: World, group: str) -> None:
    """huggingface_hub fetches a file."""
    assert world.client(group, "hub", "config.json") == len('{"model_type":"gemma3"}')


def test_usage_report_is_received(world: World, group: str) -> None:
    """What vLLM posts at start arrives at its statistics host."""
    assert world.client(group, "usage") == 200
