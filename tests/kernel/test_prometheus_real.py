"""What Prometheus makes of a running tattle: real scrapes by the real program, and its own checker's opinion.

The truth is a receiver's: it counts datagrams on loopback. Each is one packet of its payload and 28 bytes of
headers (20 of IPv4, RFC 791; 8 of UDP, RFC 768), for whoever sends and whoever counts.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemon import command
from tests.support.network import cgroup2_root
from tests.support.prometheus import PATIENCE_S, answer_of, fetch, free_port, running
from tests.support.prometheus import prometheus as real_prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (1, 100, 1000)
EACH = 100
HEADERS = 28
SEND = """
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("127.0.0.1", int(sys.argv[1])))
for _ in range(int(sys.argv[3])):
    out.send(bytes(int(sys.argv[2])))
    assert out.recv(16) == b"more"
"""
SENT = "tattle_transmit_bytes_total"
TEXT = "text/plain; version=0.0.4"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CONFIG = """
global: {{ scrape_interval: 500ms }}
scrape_configs:
  - job_name: tattle
    static_configs: [ {{ targets: ["{listen}"] }} ]
"""


class Scene(NamedTuple):
    """A tattle that serves metrics at LISTEN, and what was sent by TARGET as the receiver counted it."""

    listen: str
    target: str
    bytes: int
    packets: int


def wait_ready(notify: socket.socket, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until CHILD has said READY=1: sd_notify(3)."""
    pidfd = os.pidfd_open(child.pid)
    said = b""
    while b"READY=1" not in said:
        ready, _, _ = select.select([notify, pidfd], [], [], PATIENCE_S)
        assert notify in ready, f"tattle is not ready: {log.read_text()}"
        said = notify.recv(4096)
    os.close(pidfd)


@contextmanager
def daemon(scratch: Path, *options: str) -> Iterator[str]:
    """Run tattle for the time of the block; yields where it serves its metrics."""
    instance, listen, log = (
        f"tattle-{secrets.token_hex(4)}",
        f"127.0.0.1:{free_port()}",
        scratch / "tattle.log",
    )
    line = command("run", "--instance", instance, "--listen", listen, *options)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(scratch / "notify"))
        try:
            with running(*line, log=log, NOTIFY_SOCKET=str(scratch / "notify")) as child:
                wait_ready(notify, child, log)
                yield listen
        finally:
            for parent in ("/run", "/var/lib", "/sys/fs/bpf"):  # the last if it had to be killed
                shutil.rmtree(Path(parent) / instance, ignore_errors=True)


def send(directory: Path, port: int, size: int) -> subprocess.Popen[bytes]:
    """Start a sender of EACH datagrams of SIZE bytes, in the cgroup DIRECTORY from its start."""
    enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(directory / "cgroup.procs")]
    return subprocess.Popen([*enter, sys.executable, "-c", SEND, str(port), str(size), str(EACH)])


def receive(receiver: socket.socket, senders: list[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """Answer every datagram and return (bytes of payload, datagrams); the senders must succeed."""
    payload = count = 0
    while count < EACH * len(senders):
        data, sender = receiver.recvfrom(65535)
        payload, count = payload + len(data), count + 1
        receiver.sendto(b"more", sender)
    assert [sender.wait(PATIENCE_S) for sender in senders] == [0] * len(senders)
    return payload, count


@pytest.fixture(scope="module", name="scene")
def a_counted_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Let three processes of one target send what a receiver counts; they have ended when the tests begin."""
    scratch, name = tmp_path_factory.mktemp("prometheus"), f"tattle-prometheus-{secrets.token_hex(4)}"
    directory, target = cgroup2_root() / name, f"cgroup:/{name}"
    directory.mkdir()
    try:
        with daemon(scratch, "--target", target) as listen, socket.socket(type=socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(PATIENCE_S)
            port = receiver.getsockname()[1]
            payload, count = receive(receiver, [send(directory, port, size) for size in SIZES])
            yield Scene(listen, target, payload + count * HEADERS, count)
    finally:
        directory.rmdir()


@pytest.fixture(scope="module", name="prometheus")
def a_prometheus(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the real Prometheus, told to scrape tattle; yields the address of its API."""
    config = CONFIG.format(listen=scene.listen)
    with real_prometheus(config, tmp_path_factory.mktemp("server")) as api:
        yield api


def test_prometheus_sums_up_what_was_received(scene: Scene, prometheus: str) -> None:
    """PromQL's sum over the target's processes is the receiver's count, though they have ended."""
    selector = f'{{target="{scene.target}", proto="udp", direction="out"}}'
    by = "sum by (process, destination, scope)"
    ((labels, sent),) = answer_of(prometheus, f"{by} (tattle_transmit_bytes_total{selector})")
    ((_, packets),) = answer_of(prometheus, f"sum (tattle_transmit_packets_total{selector})")
    ((_, flows),) = answer_of(prometheus, f"sum (tattle_connection_attempts_total{selector})")
    ((_, replies),) = answer_of(prometheus, f"sum (tattle_receive_bytes_total{selector})")
    assert (labels["destination"], labels["scope"]) == ("127.0.0.1", "loopback")
    assert labels["process"].startswith("python")
    assert (sent, packets, flows) == (scene.bytes, scene.packets, len(SIZES))
    assert replies == scene.packets * (len(b"more") + HEADERS)


def test_prometheus_scrapes_without_a_complaint(scene: Scene, prometheus: str) -> None:
    """The target is up, and no sample was refused for its form, its order or its name."""
    assert scene.listen
    answer_of(prometheus, f"{SENT} > 0")
    (target,) = json.loads(fetch(prometheus, "/api/v1/targets"))["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_promtool_accepts_the_metrics(scene: Scene) -> None:
    """Prometheus' own linter has nothing to say about names, types and help texts."""
    text = fetch(scene.listen, "/metrics", TEXT)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_parsers_read_the_same_sum(scene: Scene, accept: str) -> None:
    """Both text formats parse, OpenMetrics by its strict parser, and carry the same counters."""
    text = fetch(scene.listen, "/metrics", accept)
    parse = (
        openmetrics.text_string_to_metric_families
        if accept == OPENMETRICS
        else text_string_to_metric_families
    )
    samples = [sample for family in parse(text) for sample in family.samples]
    ours = [one for one in samples if one.name == SENT and one.labels["target"] == scene.target]
    assert sum(one.value for one in ours if one.labels["direction"] == "out") == scene.bytes
