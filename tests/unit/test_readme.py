"""What the READMEs say exists: commands, options, make targets, metrics, keys and files."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

import pytest

from tests.documented import PAGES, ROOT, arguments, is_tattle, name, said
from tracer import __version__
from tracer.cli.parser import COMMANDS, build, load, split
from tracer.model.records import EVENT_KEYS

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_commands_are_found() -> None:
    """The checks below would pass on an empty list."""
    assert ("make", "run") in said(ROOT / "README.md")
    assert ("tattle", "watch") in said(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page: Path) -> None:
    """Each `make X` of a page is a target of the Makefile."""
    targets = {
        word for words in said(page) if words[0] == "make" for word in words[1:] if word.isidentifier()
    }
    targets |= {word for words in said(page) if words[0] == "make" for word in words[1:2] if "-" in word[1:]}
    assert not [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tattle_takes_what_is_shown(page: Path) -> None:
    """Each `tattle ...` of a page is accepted by the command line."""
    for words in filter(is_tattle, said(page)):
        if len(words) == 2:  # spoken of: it may need operands
            assert words[1] in COMMANDS or words[1].startswith("-"), words
        else:
            build().parse_args(split(arguments(words))[0])


def test_every_command_is_explained() -> None:
    """Whoever reads the README has met every command and every option."""
    missing = [f"tattle {name}" for name in COMMANDS if f"`tattle {name}`" not in README]
    for word in COMMANDS:
        parser = argparse.ArgumentParser()
        load(word).add(parser)
        options = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        missing += [word for action in options for word in action.option_strings if word not in README]
    assert not set(missing) - {"-h", "--help"}


def test_metrics_are_the_exported_ones() -> None:
    """The table of metrics has every family of the exporter, and no other."""
    exporter = (ROOT / "exporters" / "prometheus" / "collector.py").read_text()
    counters = set(re.findall(r'_(?:family|counter)\(\s*"(\w+)"', exporter))
    counters |= set(re.findall(r'^            \("(\w+)", "', exporter, re.MULTILINE))
    gauges = set(re.findall(r'(?:Gauge|Histogram)MetricFamily\(\s*"(\w+)"', exporter))
    exported = {f"tattle_{counter}_total" for counter in counters} | gauges
    table = README.partition("## Metrics")[2].partition("```")[0]
    assert set(re.findall(r"`(tattle_\w+)`", table)) == exported


def test_json_keys_are_the_written_ones() -> None:
    """The README lists an event's keys in the order of the log."""
    keys = README.partition("## JSON")[2]
    listed = re.search(r"`(ts event [^`]+)`", keys)
    assert listed is not None
    assert tuple(listed[1].split()) == EVENT_KEYS


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link into the repository names a file that is there."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_changelog_knows_this_version() -> None:
    """What is being built is described for users."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{__version__}]" in text
