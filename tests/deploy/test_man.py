"""The manual says what the command line takes, and groff has nothing to complain about."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.deploy.roots import ROOT
from tracer.cli.parser import COMMANDS, load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the pages."""
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "deploy" / "man.py", folder], cwd=ROOT, check=True)
    return folder


def read(page: Path) -> str:
    """Read a page as man(1) shows it; a warning of groff's is a failure."""
    words = ["groff", "-man", "-Tascii", "-ww", "-P-c", "-P-b", "-P-u", page]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return re.sub(r"\s+", " ", done.stdout)


def test_each_command_has_a_page(manual: Path) -> None:
    """And the first page leads to all of them."""
    pages = {page.name for page in manual.rglob("*.*")}
    assert pages == {"tattle.8", "tattle.toml.5"} | {f"tattle-{name}.8" for name in COMMANDS}
    first = read(manual / "man8" / "tattle.8")
    assert all(f"tattle-{name}(8)" in first.replace("- ", "-") for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_says_what_help_says(manual: Path, name: str) -> None:
    """Every option that --help shows is on the page, with the examples as they stand."""
    page = manual / "man8" / f"tattle-{name}.8"
    words = [sys.executable, "-m", "tracer", name, "--help"]
    shown = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    text = read(page)
    options = set(
        re.findall(
            r"(?<!\S)--[a-z][a-z-]+", re.sub(r"examples:.*", "", shown, flags=re.DOTALL | re.IGNORECASE)
        )
    )
    assert options
    assert not {option for option in options if option not in text}
    for line in [line for line in load(name).examples.splitlines() if line.startswith(" ")]:
        assert re.sub(r"\s+", " ", line.strip()) in text


def test_the_configuration_has_a_page(manual: Path) -> None:
    """It is the example, every key of it."""
    text = read(manual / "man5" / "tattle.toml.5")
    example = (ROOT / "deploy" / "tattle.toml").read_text()
    assert all(key in text for key in re.findall(r"^# (\w+) = ", example, re.MULTILINE))
