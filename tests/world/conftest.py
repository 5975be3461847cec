"""Fixtures: the miniature internet and a tattle that watches it, each once for all tests."""

from collections.abc import Iterator

import pytest

from tests.world.miniature.layout import LLAMA, OLLAMA
from tests.world.miniature.tattled import Tattle
from tests.world.miniature.tattled import tattle as running_tattle
from tests.world.miniature.world import World, world


@pytest.fixture(scope="session", name="world")
def the_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Bring a miniature internet up: DNS, web sites over TLS, IPv4 and IPv6."""
    with world(tmp_path_factory.mktemp("world")) as up:
        yield up


@pytest.fixture(scope="session")
def tattle(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tattle]:
    """Run a daemon that has the cgroups of both LLM servers as targets."""
    state = tmp_path_factory.mktemp("tattle")
    options = ("--target", f"cgroup:/world/{OLLAMA}", "--target", f"cgroup:/world/{LLAMA}")
    with world.group(OLLAMA), world.group(LLAMA), running_tattle(state, *options) as daemon:
        yield daemon
