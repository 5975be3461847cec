"""The daemon outlives its surroundings: whatever fails, it answers, and what is blocked stays blocked."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.container_engine import ContainerEngine
from tests.support.daemon import Tattle, run, until
from tests.support.network import PEER4
from tests.support.packet_counters import enter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.network import Lab

ID = "ab" * 32
# What is refused where, how, and which part counts it; None: it belongs to another process, which may go at
# any time, or has a count of its own among the losses.
PLACES = [
    ("stat", "/etc/hosts", "EACCES", None),
    ("open", "/etc/resolv.conf", "EIO", None),
    ("open", "/etc/passwd", "EIO", "podman"),
    ("open", "/etc/passwd", "ESTALE", "podman"),
    ("open", "/etc/containers/storage.conf", "EACCES", "podman"),
    ("scandir", "/var/lib/containers/storage", "EACCES", "podman"),
    ("scandir", "/run/containers/storage", "ESTALE", "podman"),
    ("stat", "/run/docker.sock", "EACCES", "docker"),
    ("stat", "/run/docker.sock", "EIO", "docker"),
    ("stat", "/run/crio/crio.sock", "EACCES", "cri"),
    ("connect", "*/docker.sock", "EACCES", "docker"),
    ("connect", "*/docker.sock", "EMFILE", "docker"),
    ("connect", "*/docker.sock", "ECONNREFUSED", "docker"),
    ("scandir", "/proc", "EMFILE", "proc"),
    ("open", "/proc/*/comm", "EACCES", None),
    ("open", "/proc/*/cmdline", "EIO", None),
    ("open", "/proc/self/cgroup", "EIO", None),
    ("open", "*/cgroup.procs", "EIO", None),
    ("scandir", "/sys/fs/cgroup*", "EMFILE", None),
    ("open", "*/policies.json", "EACCES", "policies"),
    ("open", "*/policies.json", "EIO", "policies"),
    ("open", "*/policies.json", "EMFILE", "policies"),
    ("open", "*/policies.json", "ESTALE", "policies"),
    ("sendto", "*.notify", "ENOSPC", None),
    ("clock", "*", "EINVAL", None),
]

RELOADED = ("*.notify", "/proc/self/cgroup")
"""What is asked for when the configuration is read again."""


class Scene(NamedTuple):
    """A daemon whose surroundings fail by `rules`, a blocked cgroup, and the engine that it follows."""

    lab: Lab
    tattle: Tattle
    rules: Path
    cgroup: Path
    port: int
    engine: ContainerEngine

    def refuse(self, *rules: tuple[str, str, str]) -> None:
        """Have calls fail from now on; none without rules."""
        told = [dict(zip(("call", "path", "errno"), one, strict=True)) for one in rules]
        fresh = self.rules.with_suffix(".new")
        fresh.write_text(json.dumps(told))
        fresh.replace(self.rules)

    def struck(self) -> int:
        """Return how often the present rules have struck."""
        try:
            told = json.loads(self.rules.with_suffix(".hits").read_text())
        except FileNotFoundError:
            return 0
        return int(told["hits"]) if told["rules"] == self.rules.read_text() else 0

    def page(self, path: str) -> tuple[int, str]:
        """Ask the daemon over HTTP."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.tattle.port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def errors(self, part: str) -> float:
        """Return how many faults of a part were counted."""
        _, text = self.page("/metrics")
        start = f'tattle_errors_total{{part="{part}"}} '
        found = [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
        return float(found[0]) if found else 0.0

    def assert_well(self) -> list[str]:
        """It runs and answers, and nothing that is blocked arrives."""
        assert self.tattle.process
        assert self.tattle.process.poll() is None, self.tattle.errors.read_text()[-3000:]
        assert self.page("/metrics")[0] == 200
        before = self.lab.peer.stats(self.port)
        words = [*self.lab.program("knock.c", "knocker"), PEER4, str(self.port), "30"]
        inside = (self.cgroup / "cgroup.procs").write_text

        def prepare() -> None:
            enter(self.lab.client.fd)
            inside("0")

        subprocess.run(words, check=True, preexec_fn=prepare)
        assert self.lab.peer.stats(self.port) == before
        assert "Traceback" not in self.tattle.errors.read_text()
        return []


@pytest.fixture(scope="module")
def scene(lab: Lab, scratch: Path) -> Iterator[Scene]:
    """A Docker engine is found by its process: a program of that name that says where its socket is."""
    rules = scratch / "rules.json"
    rules.write_text("[]")
    tattle = Tattle(scratch)
    tattle.launcher = ("tests.support.faulty", str(rules))
    cgroup = lab.cgroup(f"lab-{lab.token}/surrounded")
    named = scratch / "dockerd"
    named.symlink_to(sys.executable)
    with ContainerEngine(scratch / "docker.sock") as engine:
        engine.create(ID, "oll", "ollama/ollama")
        words = [str(named), "-c", "input()", "-H", f"unix://{engine.path}"]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as pretends:
            try:
                tattle.start()
                done = run(
                    "block", f"cgroup:{lab.cgroup_path(cgroup)}", "--allow", "example.com", *tattle.own
                )
                assert done.returncode == 0, done.stderr
                made = Scene(lab, tattle, rules, cgroup, lab.peer.serve(), engine)
                until(lambda: [] if engine.asked else ["the engine is not found"])
                made.assert_well()
                yield made
                assert tattle.stop() == 0
            finally:
                tattle.remove()
                pretends.kill()


@pytest.mark.parametrize(("call", "path", "reason", "part"), PLACES)
def test_a_refused_call_is_survived(
    scene: Scene, call: str, path: str, reason: str, part: str | None
) -> None:
    """It is logged once, counted, tried again, and no longer told when it works."""
    counted = scene.errors(part) if part else 0
    scene.tattle.errors.write_text("")
    scene.refuse((call, path, reason))
    scene.engine.stop()
    scene.engine.start()  # so that it is connected to again
    assert scene.tattle.process
    for_it = scene.tattle.process.send_signal if path in RELOADED else lambda _: None

    def struck() -> list[str]:
        for_it(signal.SIGHUP)
        return scene.assert_well() or ([] if scene.struck() >= 2 else [f"{path} was not asked for"])

    until(struck)
    if part:
        until(lambda: [] if scene.errors(part) > counted + 1 else [f"{part} is not counted"])
        lines = scene.tattle.errors.read_text().splitlines()
        about = [one for one in lines if "tried again" in one and f"part={part}" in one]
        assert 1 <= len(about) == len(set(about)), lines
    scene.refuse()
    if part:
        over = f"works again part={part}"
        until(lambda: [] if over in scene.tattle.errors.read_text() else ["not told to be over"])
    until(lambda: [] if scene.page("/healthz") == (200, "ok\n") else [scene.page("/healthz")[1]])
    scene.assert_well()


@pytest.mark.parametrize("mood", ["hang", "garbage", "error", "hangup"])
def test_an_engine_that_fails_holds_nothing_up(scene: Scene, mood: str) -> None:
    """Slow answers are waited for elsewhere; garbage is none."""
    counted = scene.errors("docker")
    scene.engine.mood = mood
    scene.engine.stop()
    scene.engine.start()
    until(lambda: [] if scene.errors("docker") > counted else ["it is not counted"])
    scene.assert_well()
    scene.engine.mood = "well"
    scene.engine.stop()
    scene.engine.start()
    asked = len(scene.engine.asked)
    until(lambda: [] if len(scene.engine.asked) > asked else ["it is not tried again"])
    scene.assert_well()


def test_damaged_policies_are_not_forgotten(scene: Scene) -> None:
    """Garbage in the file: the kernel goes on with what it has, and so does the daemon."""
    file = Path("/var/lib") / scene.tattle.instance / "policies.json"
    before, counted = file.read_bytes(), scene.errors("policies")
    for garbage in (b"", b"\xff\x00[", b"[" * 9000, b'{"a": 1}'):
        file.write_bytes(garbage)
        until(lambda now=counted: [] if scene.errors("policies") > now else ["it is not counted"])
        counted = scene.errors("policies")
        scene.assert_well()
    file.write_bytes(before)
    until(lambda: [] if scene.page("/healthz") == (200, "ok\n") else [scene.page("/healthz")[1]])


def test_no_descriptors_are_left(scene: Scene) -> None:
    """EMFILE wherever a file or a socket is opened; afterwards it answers as before."""
    assert scene.tattle.process
    pid = scene.tattle.process.pid
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_now = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only how many
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now // 2, old[1]))
    scene.engine.stop()
    scene.engine.start()
    scene.tattle.process.send_signal(signal.SIGHUP)
    time.sleep(1.0)  # nothing tells that it has met the limit: it cannot be asked
    resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    until(lambda: [] if scene.page("/healthz") == (200, "ok\n") else [scene.page("/healthz")[1]])
    scene.assert_well()
    until(lambda: [] if run("flows", "--instance", scene.tattle.instance).returncode == 0 else ["no answer"])


def test_a_full_disk_is_told_by_healthz(lab: Lab, scratch: Path) -> None:
    """The history cannot be written: /healthz says so; what has come is written when there is room."""
    tattle = Tattle(scratch)
    state = Path("/var/lib") / tattle.instance
    rules = scratch / "no-rules.json"
    rules.write_text("[]")
    tattle.launcher = ("tests.support.faulty", str(rules))
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(state)], check=True)
    try:
        tattle.start()
        scene = Scene(lab, tattle, rules, lab.cgroup(f"lab-{lab.token}/full"), 0, ContainerEngine(rules))
        filler = state / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        lab.run("tcp.py", op="probe", host=PEER4, port=lab.peer.serve())
        until(lambda: [] if "history cannot be written" in scene.page("/healthz")[1] else ["all is well?"])
        assert scene.page("/healthz")[0] == 503
        assert scene.page("/metrics")[0] == 200
        filler.unlink()
        until(lambda: [] if scene.page("/healthz") == (200, "ok\n") else [scene.page("/healthz")[1]])
        assert tattle.stop() == 0
    finally:
        tattle.kill()
        subprocess.run(["umount", str(state)], check=True)
        tattle.remove()
