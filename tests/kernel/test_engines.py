"""Two engines, one promise: what one has put in the kernel, the other goes on with."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.cgroups import Jail, flood
from tests.support.daemon import Tattle
from tests.support.proving import Prover
from tracer.bpf.engine import Engine, EngineOptions
from tracer.bpf.loader import bcc
from tracer.errors import KernelError, ObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cgroups import Judge
    from tests.support.network import Lab

TURNS = [("libbpf", "bcc"), ("bcc", "libbpf")]


@contextmanager
def started(scratch: Path, engine: str) -> Iterator[Tattle]:
    """Run a daemon with this engine; take away what is left of it."""
    made = Tattle(scratch, "--engine", engine)
    try:
        made.start()
        yield made
    finally:
        made.remove()


TRACEPOINTS = ("cgroup_", "sched_")


def links(daemon: Tattle) -> dict[str, int]:
    """Return the ids of the links at the cgroup root: tracepoints may be attached anew."""
    hooks = daemon.ask("status")["hooks"]
    return {hook["hook"]: hook["link_id"] for hook in hooks if not hook["hook"].startswith(TRACEPOINTS)}


@pytest.mark.parametrize(("first", "then"), TURNS)
def test_the_other_goes_on_without_a_gap(
    first: str, then: str, lab: Lab, scratch: Path, judge: Judge
) -> None:
    """Killed under traffic and started with the other engine: same links, counters go on, nothing passes."""
    with started(scratch, first) as daemon:
        cell = Jail(lab, daemon)
        cell.block()
        assert daemon.ask("status")["engine"] == first
        with flood(lab, cell, judge) as names:
            counted, hanging = cell.denials(*names), links(daemon)
            daemon.kill()
            daemon.options = ("--engine", then)
            daemon.start()
            assert daemon.ask("status")["engine"] == then
            assert cell.state()["active"]
            assert links(daemon) == hanging
            assert cell.denials(*names) > counted > 0


def test_a_proof_tells_who_made_the_programs(lab: Lab, scratch: Path) -> None:
    """Compiled here they could be any: the report says so, and is consistent all the same."""
    for engine in TURNS[0]:
        proof = Prover(lab, scratch, f"made{os.getpid()}").run("true", options=("--engine", engine))
        assert (proof.code, proof.verdict, proof.report["tool"]["engine"]) == (0, "no-egress", engine)


CONNECT4 = "	user_ipv4(ctx, &remote);\n	return connecting(ctx, &remote);"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let bcc compile a copy of the sources, which a test may change; return the file with the programs."""
    copy = tmp_path / "bpf"
    shutil.copytree(bcc.SOURCES, copy)
    monkeypatch.setattr(bcc, "SOURCES", copy)
    return copy / "tattle.bpf.c"


def changed(sources: Path, into: str) -> None:
    """Change what connect4 does."""
    text = sources.read_text()
    assert text.count(CONNECT4) == 1
    sources.write_text(text.replace(CONNECT4, into))


def test_a_program_that_was_changed_in_place(sources: Path) -> None:
    """What the verifier refuses is named, with its words and how to go on without it."""
    changed(sources, "	return *(int *)(long)ctx->user_port;")
    options = EngineOptions(pin=False, engine="bcc")
    with pytest.raises(KernelError, match="connect4") as caught:
        Engine.open(options)
    assert "invalid mem access" in caught.value.message
    assert (caught.value.hook, caught.value.hint) == ("connect4", "--allow-missing connect4")
    with Engine.open(EngineOptions(pin=False, engine="bcc", allow_missing=frozenset({"connect4"}))) as engine:
        assert engine.missing == ("connect4",)


@pytest.mark.parametrize(
    ("into", "words"),
    [
        ("	return connecting(ctx, &remote)", "error: expected ';'"),
        ("	extern int elsewhere(void *);\n	return elsewhere(ctx);", "non-static"),
        (
            "	static const __u64 table[9] = {1, 2};\n	return table[ctx->user_port % 9];",
            "constant of its own",
        ),
    ],
)
def test_what_cannot_be_a_program_is_refused(into: str, words: str, sources: Path) -> None:
    """Before anything is loaded: no half a program, and none that reads what is not there."""
    changed(sources, into)
    with pytest.raises(ObjectError, match=words):
        Engine.open(EngineOptions(pin=False, engine="bcc"))
