"""Targets: selectors taken apart, found as cgroups, numbered for good, and told to the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.container_engine import ContainerEngine
from tracer.containers.engines import ContainerEngines
from tracer.containers.sources import Sources
from tracer.errors import HostError, UsageError
from tracer.host.faults import Faults
from tracer.model.process import NOBODY
from tracer.targets.finder import Finder, Kind, TargetBook, parse
from tracer.targets.membership import chooser

if TYPE_CHECKING:
    from pathlib import Path

ID = "0123456789abcdef" * 4


@pytest.fixture
def host(tmp_path: Path) -> Finder:
    """Make a host with a few cgroups and processes, in a directory."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    for path in ("system.slice/ollama.service", "user.slice/a/b", f"docker/{ID}/inner", "tattle"):
        (root / path).mkdir(parents=True)
    for pid, cgroup in (("self", "/tattle"), ("7", "/user.slice/a"), ("8", "/")):
        (proc / pid).mkdir(parents=True)
        (proc / pid / "cgroup").write_text(f"12:pids:/elsewhere\n0::{cgroup}\n")
    (proc / "7" / "exe").symlink_to("/opt/bin/llama-server")
    (proc / "7" / "cmdline").write_bytes(b"llama-server\0-m\0x\0")
    return Finder(root, proc, ContainerEngines(Sources(Faults(), tmp_path / "none", proc)))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("ollama", Kind.PROFILE, "ollama"),
        ("unit:ollama.service", Kind.UNIT, "ollama.service"),
        ("unit:ollama", Kind.UNIT, "ollama.service"),
        ("cgroup:/a//b/", Kind.CGROUP, "/a/b"),
        ("cgroup:/", Kind.CGROUP, "/"),
        ("pid:12", Kind.PID, "12"),
        ("container:web", Kind.CONTAINER, "web"),
    ],
)
def test_selectors_are_taken_apart(text: str, kind: Kind, value: str) -> None:
    """The text is kept as it was given."""
    found = parse(text)
    assert (found.text, found.kind, found.value) == (text, kind, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nosuch",
        "cgroup:a",
        "cgroup:/a/../b",
        "pid:x",
        "pid:0",
        "pid:-1",
        "unit:",
        "container:",
        "x:y",
        "unit:a/b",
    ],
)
def test_what_is_no_selector_is_a_usage_error_that_quotes_it(text: str) -> None:
    """With the forms that exist as its mend."""
    with pytest.raises(UsageError, match="'") as error:
        parse(text)
    assert f"'{text}'" in error.value.message
    assert "cgroup:/PATH" in error.value.hint


@pytest.mark.parametrize(
    ("text", "cgroups"),
    [
        ("ollama", ("/system.slice/ollama.service",)),
        ("llama.cpp", ("/user.slice/a",)),
        ("unit:ollama", ("/system.slice/ollama.service",)),
        ("cgroup:/user.slice/a", ("/user.slice/a",)),
        ("pid:7", ("/user.slice/a",)),
        (f"container:{ID[:12]}", (f"/docker/{ID}",)),
    ],
)
def test_targets_are_found(host: Finder, text: str, cgroups: tuple[str, ...]) -> None:
    """A profile by its unit, else by its executable; of nested places the outermost."""
    assert host.find(parse(text)) == cgroups


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cgroup:/nowhere", "no such cgroup: /nowhere"),
        ("pid:999", "no such process: 999"),
        ("unit:gone", "gone.service"),
        ("container:gone", "no such container: gone"),
        ("vllm", "vllm does not run"),
        ("cgroup:/", "root cgroup"),
        ("cgroup:/tattle", "tattle's own cgroup"),
    ],
)
def test_what_cannot_be_a_target_says_why(host: Finder, text: str, words: str) -> None:
    """Absent ones are named; the root and tattle's own are refused; each with a mend."""
    with pytest.raises(HostError) as error:
        host.find(parse(text))
    assert words in error.value.message
    assert error.value.hint


def test_container_names_are_asked_of_the_engine(host: Finder, tmp_path: Path) -> None:
    """By name, by a pattern, by project and service; what has no such name is absent."""
    (tmp_path / "host/run").mkdir(parents=True)
    with ContainerEngine(tmp_path / "host/run/docker.sock") as engine:
        compose = {"com__docker__compose__project": "shop", "com__docker__compose__service": "llm"}
        engine.create(ID, "web", "ollama/ollama:7", **compose)
        faults = Faults()
        engines = ContainerEngines(Sources(faults, tmp_path / "host", tmp_path / "none"), faults)
        finder = Finder(host.root, host.proc, engines)
        for text in ("container:web", "container:w*", "container:shop/*"):
            assert finder.find(parse(text)) == (f"/docker/{ID}",)
        with pytest.raises(HostError, match="no such container"):
            finder.find(parse("container:we"))


def test_numbers_stay(tmp_path: Path) -> None:
    """A successor finds the same number for the same selector; a damaged file is an error, not a guess."""
    file = tmp_path / "state" / "targets.json"
    book = TargetBook(file)
    assert [book.number(text) for text in ("ollama", "unit:x", "ollama")] == [1, 2, 1]
    again = TargetBook(file)
    assert (again.number("unit:x"), again.name(1), again.number("new"), again.name(9)) == (
        2,
        "ollama",
        3,
        None,
    )
    file.write_text("[1")
    with pytest.raises(HostError, match="damaged"):
        TargetBook(file)


def test_a_name_that_is_given_later_is_found_then(tmp_path: Path) -> None:
    """The daemon asks in vain for a number; another process names it, and the next question finds it."""
    asks, names = (TargetBook(tmp_path / "state" / "targets.json") for _ in range(2))
    assert asks.name(1) is None
    names.number("ollama")
    assert (asks.name(1), asks.name(2)) == ("ollama", None)
    names.number("vllm")
    assert asks.name(2) == "vllm"


def test_a_program_in_others_cgroups_owns_none(host: Finder) -> None:
    """What runs in a terminal's cgroup is a member by itself; units and containers are as a whole."""
    assert host.own(parse("llama.cpp")) == ()
    assert host.own(parse("pid:7")) == ()
    assert host.own(parse("exe:llama-server")) == ()
    assert host.own(parse("ollama")) == ("/system.slice/ollama.service",)
    assert host.own(parse("cgroup:/user.slice/a")) == ("/user.slice/a",)


@pytest.mark.parametrize("text", ["exe:a/b", "exe:", "exe:/a/../b", f"exe:{'x' * 124}", "cgroup:/a/x*y*z"])
def test_what_the_kernel_cannot_compare_is_refused(text: str) -> None:
    """A part of a path that is too long, or that has more than one `*`."""
    with pytest.raises(UsageError, match="is no target"):
        parse(text)


def test_chooser_takes_names_and_places() -> None:
    """By the target's name, or by the cgroup and what lies below, but not by half a name."""
    wants = chooser({"ollama"}, ["/a/b"])
    assert wants(NOBODY._replace(target="ollama"))
    assert wants(NOBODY._replace(cgroup="/a/b"))
    assert wants(NOBODY._replace(cgroup="/a/b/c"))
    assert not wants(NOBODY._replace(cgroup="/a/bc"))
    assert not wants(NOBODY)
    assert not wants(None)
