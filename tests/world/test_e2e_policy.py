"""A runtime that was watched gets the policy that `tattle suggest` makes of it, and works on as it did."""

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.world.miniature.comparing import eventually
from tests.world.miniature.layout import OLLAMA, PYTHON, TOP
from tests.world.miniature.tattled import TATTLE, Tattle
from tests.world.miniature.world import World

TARGET = f"cgroup:/world/{OLLAMA}"
BLOB_HOST = "dd20bb891979d25aebc8bec07b2b3bbc.r2.cloudflarestorage.com"
NEEDED = {f"{name}:443" for name in ("ollama.com", "registry.ollama.ai", BLOB_HOST)}
STRANGER = "stats.vllm.ai"


@contextmanager
def serving(world: World, models: Path) -> Iterator[None]:
    """Run the stand-in for `ollama serve` with an empty directory of models."""
    serve = (PYTHON, "-m", "tests.world.miniature.standin")
    with (
        world.group("user"),
        world.running(OLLAMA, *serve, ready=b"listening", OLLAMA_MODELS=str(models)),
    ):
        yield


def use(world: World) -> None:
    """Do what its user does: pull a model, ask it, and ask one in the cloud."""
    assert world.client("user", "pull", "gemma3:270m") == "success"
    assert world.client("user", "generate", "gemma3:270m", "one, two, three, four, five,")
    assert "cloud" in str(world.client("user", "chat", "gpt-oss:120b-cloud", "a question"))


def report_usage(world: World) -> int:
    """Have something else in its service report home; returns the exit code."""
    return world.run(OLLAMA, PYTHON, "-m", "tests.world.miniature.clients", "usage").returncode


def obey(line: str) -> None:
    """Run a command as it stands on the page."""
    words = shlex.split(line)
    done = subprocess.run([*TATTLE, *words[1:]], capture_output=True, text=True, check=False, cwd=TOP)
    assert done.returncode == 0, done.stderr


def test_a_watched_runtime_gets_its_policy(world: World, tattle: Tattle, tmp_path: Path) -> None:
    """What it needs, by name, and not what its profile does not know; enforced, it works as before."""
    with serving(world, tmp_path / "watched"):
        use(world)
        assert report_usage(world) == 0

        def suggested() -> dict[str, Any]:
            found: dict[str, Any] = tattle.ask("suggest", TARGET)
            assert {one["rule"] for one in found["rules"]} == NEEDED
            assert [one["rule"] for one in found["unexpected"]] == [f"{STRANGER}:443"]
            return found

        found = eventually(suggested)
        assert (found["profile"], found["lookups"], found["denied"]) == ("ollama", [], [])
        assert all(one["purpose"] for one in found["rules"])
        obey(found["commands"]["enforce"])
    try:
        with serving(world, tmp_path / "blocked"):
            use(world)
            assert report_usage(world) != 0
    finally:
        obey(shlex.join(["tattle", "unblock", TARGET, "--instance", tattle.instance]))
