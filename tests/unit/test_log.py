"""What the daemon and the commands log, in either form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from tracer.log import configure

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_people_read_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A record is a line that begins with the program and the level."""
    configure("text", debug=False)
    structlog.get_logger("tattle").warning("a hook is missing", hook="egress")
    structlog.get_logger("tattle").debug("not asked for")
    assert capsys.readouterr().err == "tattle: warning: a hook is missing hook=egress\n"


def test_programs_read_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --log-format json a record is one object with its time, level and fields."""
    configure("json", debug=True)
    structlog.get_logger("tattle").error("not enforced", error=OSError("no room"), count=3)
    said = msgspec.json.decode(capsys.readouterr().err)
    configure("text", debug=False)
    assert said.pop("ts").endswith("Z")
    assert said == {"level": "error", "event": "not enforced", "error": "no room", "count": 3}


def test_an_exception_is_shown_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    """What was not expected keeps its traceback."""
    configure("text", debug=False)
    try:
        int("unforeseen")
    except ValueError as error:
        structlog.get_logger("tattle").error("a request was not answered", exc_info=error)
    shown = capsys.readouterr().err
    assert shown.startswith("tattle: error: a request was not answered\n")
    assert "ValueError: invalid literal" in shown


def test_what_nobody_needs_is_not_loaded_and_can_be_later() -> None:
    """Neither rich nor asyncio cost the daemon their memory; who imports them gets them whole."""
    code = (
        "import sys, tracer.log; print(*({'rich', 'asyncio'} & set(sys.modules)));"
        "import asyncio, rich.table; asyncio.run(asyncio.sleep(0)); print(rich.table.Table.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["Table"]
