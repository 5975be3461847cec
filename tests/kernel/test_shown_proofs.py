"""The commands of `prove` and `verify` that our pages show, each run as it stands, in a place of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.documented import ROOT, arguments, is_tattle, shown
from tests.support.daemon import works
from tests.support.network import cgroup2_root
from tracer.cli.parser import split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY, REPORT = "prove.key", "proof.json"


def proofs() -> list[tuple[str, ...]]:
    """Give the commands; those without operands are only spoken of."""
    mine = [words for words in shown() if is_tattle(words) and words[1:2] in (("prove",), ("verify",))]
    return [words for words in mine if len(words) > 2]


def test_some_are_shown() -> None:
    """The test below would pass on an empty list."""
    assert {words[1] for words in proofs()} == {"prove", "verify"}


@pytest.fixture(scope="module")
def ollama() -> Iterator[None]:
    """Have a process run where ollama's unit would."""
    unit = cgroup2_root() / "system.slice" / "ollama.service"
    made = [place for place in (unit.parent, unit) if not place.exists()]
    for place in made:
        place.mkdir()
    stand_in = subprocess.Popen(["sleep", "600"])
    try:
        (unit / "cgroup.procs").write_text(str(stand_in.pid))
        yield
    finally:
        stand_in.kill()
        stand_in.wait()
        for place in reversed(made):
            with contextlib.suppress(OSError):  # the process may be on its way out of it
                place.rmdir()


def run(place: Path, *words: str) -> None:
    """Run a command there; its window is short."""
    given, inner = split(list(words))
    given = ["0.3" if before == "--for" else word for before, word in zip(["", *given], given, strict=False)]
    given += ["--instance", f"shown{os.getpid()}"] if given[0] == "prove" else []
    works(
        *given,
        *(["--", *inner] if inner else []),
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.usefixtures("ollama")
@pytest.mark.parametrize("words", proofs(), ids=" ".join)
def test_commands_work(words: tuple[str, ...], tmp_path: Path) -> None:
    """Each exits with 0, after those that the page shows before it."""
    if "--make-key" not in words:
        run(tmp_path, "prove", "--make-key", KEY)
        if words[1] == "verify":
            run(tmp_path, "prove", "--key", KEY, "--report", REPORT, "--", "true")
    run(tmp_path, *arguments(words))
    written = {word for before, word in pairwise(words) if before in ("--report", "--html")}
    assert all((tmp_path / name).stat().st_size for name in written)
