"""What all commands have in common: a reader that leaves early changes no verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.reports import flow, observed
from tracer.proof import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def unread() -> Iterator[int]:
    """Give a pipe that nobody reads any more, as behind `| head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def verify(report: Path, *words: str, stdout: int | None, closed: bool = False) -> tuple[int, str]:
    """Run `tattle verify`; returns its exit code and what it complains of."""
    command = [sys.executable, "-m", "tracer", "verify", str(report), *words]
    if closed:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(command, check=False, stdout=stdout, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["for people", "json"])
@pytest.mark.parametrize("changed", [False, True], ids=["good", "changed"])
def test_who_reads_no_further_changes_no_verdict(
    tmp_path: Path, unread: int, words: tuple[str, ...], *, changed: bool
) -> None:
    """`tattle verify report | head -1` exits as without it, and so with a closed standard output."""
    report = canonical.seal(observed(flow()))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report | {"kernel": "another"} if changed else report))
    expected = (1 if changed else 0, "")
    assert verify(path, *words, stdout=unread) == expected
    assert verify(path, *words, stdout=None, closed=True) == expected
