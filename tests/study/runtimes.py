"""The runtimes that the study runs, and the stages of their lives: each asked as its users ask it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.study.observing import Observer, Seen
from tests.world.miniature.layout import LLAMA, MODEL, OLLAMA, PYTHON
from tests.world.miniature.tattled import tattle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.world.miniature.world import World

HERE = Path(__file__).resolve().parent
PORT = 11434
IDLE_S = 35.0
"""Longer than the interval of TCP keep-alives in Go (15 s; Ollama sets 30 s)."""
READY_S, ASK_S = 60.0, 180
LOCAL, REMOTE = "gemma3:270m", "gpt-oss:120b-cloud"
SECRET = "a secret of some length, " * 40
DISCOVERY = "--list-devices"


class Run(NamedTuple):
    """A runtime as it was run: `how` in words, `setting` as a user sets it; `made_up`: it is a stand-in."""

    title: str
    version: str
    how: str
    setting: str
    seen: tuple[Seen, ...]
    made_up: bool = False


class Asking:
    """A user who asks the API of a runtime, on loopback in the world."""

    def __init__(self, world: World, port: int) -> None:
        self._world, self._port = world, port

    def __call__(self, path: str, body: object = None) -> str:
        """Ask, and return the answer; raises AssertionError where there is none."""
        words = ["-d", json.dumps(body)] if body is not None else []
        url = f"http://127.0.0.1:{self._port}{path}"
        done = self._world.run("user", "curl", "-sSf", *words, url, seconds=ASK_S)
        assert done.returncode == 0, f"{path}: {done.stderr}"
        return done.stdout

    def gets(self, path: str, body: object) -> bool:
        """Ask, and return whether the runtime did as it was asked."""
        try:
            self(path, body)
        except AssertionError:
            return False
        return True

    def until_ready(self, path: str) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + READY_S
        while not self.gets(path, None):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} is not answered within {READY_S} s")
            time.sleep(0.1)


@contextmanager
def observed(world: World, group: str, state: Path) -> Iterator[Observer]:
    """Have a tattle that runs before the runtime does, and what it and the world tell."""
    state.mkdir()
    with world.group(group) as path, world.group("user"), tattle(state, "--target", f"cgroup:{path}") as it:
        yield Observer(world, it, path)


def ollama(world: World, state: Path, binary: Path, version: str, *, setting: str = "") -> Run:
    """Run a program that speaks Ollama's API through all stages."""
    ask, seen = Asking(world, PORT), list[Seen]()
    variables = dict([setting.split("=")]) if setting else {}
    more = {"OLLAMA_HOST": f"127.0.0.1:{PORT}", "HOME": str(state), **variables}
    with observed(world, OLLAMA, state / "tattle") as look:
        with world.running(OLLAMA, binary, "serve", **more):
            ask.until_ready("/api/version")
            seen.append(look.end("start", least_s=12.0))
            seen.append(look.end("idle", least_s=IDLE_S))
            for stage, path, body in _questions(version):
                answered = ask.gets(path, body)
                seen.append(look.end(stage)._replace(refused=not answered))
        seen.append(look.end("stop"))
    made_up = "standin" in version
    how = (
        "a stand-in in Go of tests/study, which listens over MPTCP"
        if made_up
        else "the program itself, CPU only"
    )
    return Run("Ollama's stand-in" if made_up else "Ollama", version, how, setting, tuple(seen), made_up)


def _questions(version: str) -> list[tuple[str, str, object]]:
    prompt = {"model": LOCAL, "prompt": "one, two, three, four, five,", "stream": False}
    prompt["options"] = {"num_predict": 12, "temperature": 0}
    chat = {"model": REMOTE, "messages": [{"role": "user", "content": SECRET}]}
    both = [
        ("pull", "/api/pull", {"model": LOCAL, "stream": False}),
        ("local prompt", "/api/generate", prompt),
        ("cloud prompt", "/api/chat", chat),
    ]
    if "standin" in version:
        return both
    return [
        *both,
        ("details of a cloud model", "/api/show", {"model": REMOTE}),
        ("web search", "/api/experimental/web_search", {"query": SECRET[:40]}),
        ("who am I", "/api/me", {}),
    ]


def llama_cpp(world: World, state: Path, version: str) -> Run:
    """Run llama.cpp's server with a model from a file."""
    ask, seen = Asking(world, 8091), list[Seen]()
    words = (PYTHON, "-m", "tests.world.miniature.llama_server", "-m", MODEL, "--port", "8091")
    with observed(world, LLAMA, state / "tattle") as look:
        with world.running(LLAMA, *words, ready=b"listening"):
            seen.append(look.end("start", least_s=12.0))
            seen.append(look.end("idle", least_s=IDLE_S))
            ask("/completion", {"prompt": "one, two, three,", "n_predict": 8, "temperature": 0})
            seen.append(look.end("local prompt"))
        seen.append(look.end("stop"))
    return Run("llama.cpp server", version, "its HTTP server, with -m FILE", "", tuple(seen))


def standin(place: Path) -> Path | None:
    """Build the stand-in; None where no Go is there that knows MPTCP (1.21)."""
    go = shutil.which("go")
    if go is None:
        return None
    place.mkdir()
    program = place / "ollama"
    words = [go, "build", "-o", str(program), str(HERE / "standin/main.go")]
    done = subprocess.run(words, env={**os.environ, "CGO_ENABLED": "0"}, check=False, cwd=place)
    return program if done.returncode == 0 else None


def whole(binary: Path, place: Path) -> Path:
    """Return an Ollama that has a model server beside it: its own, or llama.cpp's of the world."""
    if (binary.parent.parent / "lib/ollama/llama-server").exists() or (
        binary.parent / "llama-server"
    ).exists():
        return binary
    server = place / "lib/ollama/llama-server"
    server.parent.mkdir(parents=True)
    (place / "bin").mkdir()
    server.write_text(
        f'#!/bin/sh\ncase "$*" in *{DISCOVERY}*) echo "Available devices:"; exit 0 ;; esac\n'
        f'exec "{PYTHON}" -m tests.world.miniature.llama_server "$@"\n'
    )
    server.chmod(0o755)
    return Path(shutil.copy(binary, place / "bin/ollama"))


def version_of(binary: Path) -> str:
    """Return what an Ollama says of itself."""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1]
