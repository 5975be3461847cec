"""How runtimes read a switch's value: what one takes for yes is no to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracer.runtimes.spelling import is_private

if TYPE_CHECKING:
    from tracer.runtimes.profiles import Spelling


@pytest.mark.parametrize(
    ("value", "private", "holds"),
    [
        ("1", "1", True),
        ("TRUE", "1", True),
        ("0", "1", False),
        ("", "1", False),
        ("False", "false", True),
        ("1", "false", False),
    ],
)
def test_values_have_many_spellings(value: str, private: str, *, holds: bool) -> None:
    """Where a runtime is not known to be strict, all of them count."""
    assert is_private(value, private) is holds


@pytest.mark.parametrize(
    ("spelling", "private", "values"),
    [
        (
            "go, else true",
            "1",
            {"1": 1, "banana": 1, "yes": 1, "'0'": 0, " false ": 0, "F": 0, "": 0, "fAlse": 1},
        ),
        ("exact", "1", {"1": 1, "true": 0, " 1": 0}),
        ("exact", "off", {"off": 1, "OFF": 0}),
        ("python", "true", {"True": 1, "1": 0, "yes": 0, " true": 0}),
        ("python", "false", {"false": 1, "0": 1, "banana": 1, "TRUE": 0}),
        ("huggingface", "1", {"1": 1, "yes": 1, "On": 1, "true": 1, "y": 0, "2": 0}),
        ("llama.cpp", "", {"1": 1, "on": 1, "enabled": 1, "ON": 0, "": 0}),
    ],
)
def test_values_are_read_as_the_runtime_reads_them(
    spelling: Spelling, private: str, values: dict[str, int]
) -> None:
    """Each in its own way: what one takes for yes is no to another."""
    assert {value: int(is_private(value, private, spelling)) for value in values} == values
