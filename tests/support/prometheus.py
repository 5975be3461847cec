"""A real Prometheus for tests: started, asked, and ended with the block that wanted it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
import urllib.parse
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
RETRY_S = 0.1
Vector = list[tuple[dict[str, str], float]]


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run COMMAND for the time of the block; it dies with this process."""
    guarded = ["setpriv", "--pdeathsig", "TERM", *command]
    with log.open("wb") as out:
        child = subprocess.Popen(guarded, stdout=out, stderr=out, cwd=TOP, env={**os.environ, **environment})
    try:
        yield child
    finally:
        child.terminate()
        child.wait(PATIENCE_S)


@contextmanager
def prometheus(config: str, scratch: Path) -> Iterator[str]:
    """Run Prometheus with a configuration; yields the address of its API."""
    listen = f"127.0.0.1:{free_port()}"
    (scratch / "prometheus.yml").write_text(config)
    command = (
        "prometheus",
        f"--config.file={scratch / 'prometheus.yml'}",
        f"--storage.tsdb.path={scratch / 'data'}",
        f"--web.listen-address={listen}",
        "--log.level=warn",
    )
    with running(*command, log=scratch / "prometheus.log"):
        yield listen


def fetch(address: str, path: str, accept: str = "*/*") -> str:
    """Return the body at http://ADDRESS/PATH."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        body = answer.read().decode()
        if answer.status != http.HTTPStatus.OK:
            raise ConnectionError(f"{address} answers {answer.status}: {body}")
        return body
    finally:
        connection.close()


def ask(api: str, question: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Return the data of an answer of Prometheus' API; ConnectionError carries what it complains about."""
    return json.loads(fetch(api, f"/api/v1/{question}?{urllib.parse.urlencode(arguments, doseq=True)}"))[
        "data"
    ]


def query(api: str, expression: str) -> Vector:
    """Return [(labels, value)] as Prometheus answers EXPRESSION, nothing as long as it is not up."""
    try:
        answer = ask(api, "query", query=expression)
    except ConnectionError:
        return []
    return [(one["metric"], float(one["value"][1])) for one in answer["result"]]


def answer_of(api: str, expression: str) -> Vector:
    """Return Prometheus' first answer to EXPRESSION that is not empty."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := query(api, expression)):
        assert time.monotonic() < deadline, f"Prometheus has no answer to {expression}"
        time.sleep(RETRY_S)
    return found
