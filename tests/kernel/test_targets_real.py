"""A runtime that is set to be silent and is not: found, told what it does all the same, and counted."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.daemon import PATIENCE, Tattle, run, until
from tests.support.network import PEER4, STRANGER4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab, Program

SECRET = "sesame-open"  # noqa: S105 - of nobody


class Scene(NamedTuple):
    """A daemon, and a program called ollama that has contacted a known host twice and an unknown one once."""

    tattle: Tattle
    program: Program
    target: str


@pytest.fixture(scope="module")
def scene(lab: Lab, scratch: Path) -> Iterator[Scene]:
    """The program's cgroup says nothing of what it is: its executable does."""
    cgroup = lab.cgroup(f"lab-{lab.token}/silent")
    target = f"cgroup:{lab.cgroup_path(cgroup)}"
    tattle = Tattle(scratch, "--target", target)
    port, other = lab.peer.serve(), lab.peer.serve(host=STRANGER4)
    contacts = [[PEER4, port, "ollama.com"], [PEER4, port, "ollama.com"], [STRANGER4, other, None]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_NO_CLOUD", "1")
        patch.setenv("OLLAMA_HOST", "127.0.0.1:11555")
        patch.setenv("HF_TOKEN", SECRET)
        program = lab.start("contacts.py", name="ollama", cgroup=cgroup, op="contact", contacts=contacts)
    try:
        program.ready()
        tattle.start()
        program.go()
        program.ready()
        yield Scene(tattle, program, target)
        program.go()
        program.result()
        tattle.stop()
    finally:
        tattle.remove()


def told(scene: Scene) -> dict[str, Any]:
    """Give what `tattle targets` says of the program."""
    found = [one for one in scene.tattle.ask("targets")["targets"] if scene.program.pid in one["pids"]]
    assert len(found) == 1
    return dict(found[0])


def test_it_is_found_by_its_program_and_told_how_it_is_set(scene: Scene) -> None:
    """Switch, address and place; of its other variables nothing."""
    one = told(scene)
    assert (one["runtime"], one["how"], f"cgroup:{one['cgroup']}") == ("ollama", "process", scene.target)
    assert one["api"] == [{"address": "127.0.0.1", "port": 11555, "source": "OLLAMA_HOST"}]
    (switch,) = one["switches"]
    assert switch["private"] is True
    assert switch["places"] == [{"where": "environment", "value": "1", "private": True}]
    assert SECRET not in json.dumps(scene.tattle.ask("targets"))


def test_what_it_does_all_the_same_is_told(scene: Scene) -> None:
    """Two connections that the switch should have stopped, and one that no profile knows."""
    until(lambda: [] if len(told(scene)["contacts"]) == 2 else [str(told(scene)["contacts"])])
    one = told(scene)
    contacts = {contact["name"]: contact for contact in one["contacts"]}
    assert contacts["ollama.com"]["connections"] == 2
    assert contacts["ollama.com"]["unexpected"] is False
    assert contacts[STRANGER4]["unexpected"] is True
    (line,) = one["despite"]
    assert line.startswith("OLLAMA_NO_CLOUD=1, yet 2 connections to ollama.com since ")


def test_people_read_the_same(scene: Scene) -> None:
    """Plain text where no terminal is."""
    done = run("targets", "--instance", scene.tattle.instance)
    assert "OLLAMA_NO_CLOUD=1, yet 2 connections to ollama.com" in done.stdout
    assert "UNEXPECTED" in done.stdout
    assert SECRET not in done.stdout
    assert "\x1b" not in done.stdout


def test_flows_explain_themselves(scene: Scene) -> None:
    """Although the target was given by its cgroup."""
    rows = [row for row in scene.tattle.flows("ollama") if row["direction"] == "out"]
    known = [row for row in rows if row["name"] == "ollama.com"]
    assert known
    assert all("off with OLLAMA_NO_CLOUD=1" in row["purpose"] for row in known)
    assert [row["unexpected"] for row in rows if row["remote_addr"] == STRANGER4] == [True]


def test_the_unexpected_is_counted(scene: Scene) -> None:
    """One destination, for an alert to rest on."""
    with urllib.request.urlopen(f"http://127.0.0.1:{scene.tattle.port}/metrics", timeout=PATIENCE) as page:
        lines = page.read().decode().splitlines()
    line = f'tattle_unexpected_destinations{{target="{scene.target}"}} 1.0'
    assert line in lines
