"""Which engine the kernel tests run with: TATTLE_TEST_ENGINE, libbpf or bcc."""

from __future__ import annotations

import os

from tracer.bpf.engine import EngineOptions

ENGINE = os.environ.get("TATTLE_TEST_ENGINE", "libbpf")
OTHER = {"libbpf": "bcc", "bcc": "libbpf"}[ENGINE]
LOADING = {"run", "watch", "prove", "block"}
"""The commands that load programs."""


def made_by(words: tuple[str, ...]) -> list[str]:
    """Return the words of a command, with the engine that it is to use; an object is for libbpf."""
    told = words and words[0] in LOADING and "--object" not in words
    return [*words[:1], *(["--engine", ENGINE] if told else []), *words[1:]]


def use() -> None:
    """Let engines that a test opens itself be of that kind, too."""
    start = EngineOptions.__init__
    start.__defaults__ = tuple(ENGINE if one == "libbpf" else one for one in start.__defaults__ or ())
