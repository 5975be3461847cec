"""What selectors mean to the kernel half."""

from __future__ import annotations

import pytest

from tracer.targets.finder import parse
from tracer.targets.meaning import Meaning, Program, meaning

ID = "ab" * 32


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("unit:ollama", Meaning(names=("ollama.service",))),
        ("unit:vllm@.service", Meaning(instances=("vllm@*.service",))),
        ("unit:vllm@a.service", Meaning(names=("vllm@a.service",))),
        ("cgroup:/a/b", Meaning(paths=("/a/b",))),
        ("cgroup:/a/x*/b", Meaning(patterns=("/a/x*/b",))),
        ("pid:7", Meaning(pid=7)),
        ("exe:ollama", Meaning(programs=(Program("ollama"),))),
        ("exe:/nowhere/x", Meaning(programs=(Program("/nowhere/x", absolute=True),))),
    ],
)
def test_a_selector_means(text: str, means: Meaning) -> None:
    """Cgroups by path or by name wherever they are, or programs."""
    assert meaning(parse(text)) == means


def test_a_profile_means_units_containers_and_programs() -> None:
    """But no client of it, and no child of another runtime."""
    found = meaning(parse("llama.cpp"), (f"/docker/{ID}",))
    assert {"llama-server.service", ID} <= set(found.names)
    assert Program("llama-server", asked=True) in found.programs
    assert "ollama" in found.parents
    assert "run" in meaning(parse("ollama")).clients


def test_a_program_fits_by_the_end_of_its_path() -> None:
    """Whole parts of it, or all of it where it begins at the root."""
    assert Program("server.py").fits("/opt/x/server.py")
    assert not Program("server.py").fits("/opt/x/my-server.py")
    assert Program("x/server.py").parts == ("server.py", "x")
    assert Program("/opt/x", absolute=True).parts == ("x", "opt", "")
    assert not Program("/opt/x", absolute=True).fits("/usr/opt/x")
