"""The world as one object: bring it up, run programs in it, ask it what happened, take it down."""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.world.miniature import cgroups, layout, network, truth
from tests.world.miniature.layout import HOST, NET, PYTHON, TOP
from tests.world.miniature.processes import running

GROUP = "/world"
LOCK = Path("/run/tattle-world.lock")
NEIGHBOUR_S = 10.0
PROXIES = ("SSL_CERT_DIR", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
MODULE = [str(PYTHON), "-m"]


class NotInstalledError(Exception):
    """The world's packages are missing."""


@dataclass(frozen=True)
class World:
    """A running miniature internet. `state` holds its logs, certificates and what programs in it keep."""

    state: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of programs in the world: its certificate authority, its modules, no proxy."""
        authority = str(self.state / "ca.pem")
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        kept = {name: value for name, value in os.environ.items() if name not in PROXIES}
        places = {"PYTHONPATH": str(TOP), "HOME": str(self.state), "WORLD_STATE": str(self.state)}
        return {**kept, **dict.fromkeys(names, authority), **places, "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, group: str, *words: str | Path, namespace: str = HOST) -> list[str]:
        """Return WORDS so that they run in NAMESPACE, as a member of the cgroup /world/GROUP."""
        directory = cgroups.root() / GROUP.strip("/") / group
        entered = ["ip", "netns", "exec", namespace, *map(str, words)]
        return cgroups.inside(directory, entered)

    @contextmanager
    def group(self, name: str) -> Iterator[str]:
        """Have the cgroup /world/NAME for the time of the block; yields its path below the root."""
        with cgroups.group(f"{GROUP}/{name}"):
            yield f"{GROUP}/{name}"

    def run(
        self, group: str, *words: str | Path, namespace: str = HOST, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run WORDS to their end; the result has its code and its output, nothing is raised for a code."""
        return subprocess.run(
            self.command(group, *words, namespace=namespace),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self.environment,
            check=False,
        )

    def running(
        self, group: str, *words: str | Path, ready: bytes = b"", namespace: str = HOST, **more: str
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run WORDS for the time of the block, from when their output says READY.

        MORE goes to the environment.
        """
        command = self.command(group, *words, namespace=namespace)
        log = self.state / f"{group}.log"
        return running(command, log, ready=ready, env={**self.environment, **more})

    def client(self, group: str, *words: str) -> object:
        """Run one of miniature.clients and return what it answers."""
        done = self.run(group, *MODULE, "tests.world.miniature.clients", *words)
        assert done.returncode == 0, f"{words} failed: {done.stderr}"
        return json.loads(done.stdout)

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests that the web servers answered, oldest first."""
        return truth.lines(self.state / "requests.jsonl")

    def queries(self) -> list[dict[str, Any]]:
        """Return the DNS queries that were answered, oldest first."""
        return truth.lines(self.state / "dns.jsonl")

    def wire(self) -> dict[truth.Connection, truth.Wire]:
        """Return what every connection has carried so far."""
        return truth.wire()


def wait_for_neighbours(world: World) -> None:
    """Return when IPv6 works: until a neighbour has answered, clients quietly fall back to IPv4."""
    deadline = time.monotonic() + NEIGHBOUR_S
    probe = ["ping", "-6", "-n", "-q", "-c", "1", "-w", "1", layout.DNS_V6]
    while network.attempt("ip", "netns", "exec", HOST, *probe):
        if time.monotonic() > deadline:
            raise TimeoutError(f"IPv6 does not work in {world.state} after {NEIGHBOUR_S} s")


@contextmanager
def servers(world: World) -> Iterator[None]:
    """Run DNS and web servers for the time of the block."""
    state, env = world.state, world.environment
    subprocess.run([*MODULE, "tests.world.miniature.authority", str(state)], check=True, env=env)
    inside = ["ip", "netns", "exec", NET, *MODULE]
    names = [*inside, "tests.world.miniature.dns", str(state / "dns.jsonl"), layout.DNS_V4, layout.DNS_V6]
    sites = [*inside, "tests.world.miniature.internet", str(state), str(state / "requests.jsonl")]
    with (
        running(names, state / "dns.log", ready=b"ready", env=env),
        running(sites, state / "internet.log", ready=b"ready", env=env),
    ):
        yield


@contextmanager
def world(state: Path) -> Iterator[World]:
    """Have a miniature internet for the time of the block, one at a time on a host. Needs root."""
    if not (PYTHON.exists() and layout.MODEL.exists()):
        raise NotInstalledError(f"{layout.CACHE} is incomplete; run: python3 tests/world/install.py")
    for log in ("requests.jsonl", "dns.jsonl"):
        (state / log).touch()
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with network.network(), cgroups.group(GROUP):
            it = World(state)
            wait_for_neighbours(it)
            truth.start_counting()
            with servers(it):
                yield it
