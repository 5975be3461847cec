"""The first sentence: what was found, the page, and the lock."""

from __future__ import annotations

import time

from tracer.runtimes.profiles import SHIPPED, read
from tracer.session.greeting import Found, sentence

PAGE = "http://127.0.0.1:9753/"
RUNTIMES = read((SHIPPED,))


def found(name: str, *hosts: str) -> Found:
    """Return a runtime that was started a moment ago."""
    return Found(RUNTIMES[name], time.time(), frozenset(hosts))


def test_it_names_the_runtime_the_page_and_the_lock() -> None:
    """With the purpose that most people want kept."""
    text = sentence([found("ollama", "ollama.com", "registry.ollama.ai")], PAGE, "tattle")
    assert text.startswith("Ollama runs since ")
    assert "was seen talking to 2 hosts; open the page: http://127.0.0.1:9753/" in text
    assert text.endswith("lock it: sudo tattle block ollama --keep pull")


def test_one_host_is_named_and_others_are_told_of() -> None:
    """No more than is known: without a host nothing is said of hosts."""
    text = sentence([found("ollama", "ollama.com"), found("llama.cpp")], PAGE, "lab")
    assert "was seen talking to ollama.com, and llama.cpp too;" in text
    assert text.endswith("--instance lab")
    assert "talking" not in sentence([found("ollama")], PAGE, "tattle")


def test_where_nothing_runs_it_says_so() -> None:
    """And what there is to see all the same."""
    assert "no model runtime runs here now" in sentence([], PAGE, "tattle")
