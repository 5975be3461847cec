"""Which request lines mean which phase: as the kernel's table has them."""

from __future__ import annotations

import pytest

from tracer.runtimes.profiles import PhaseRule, runtimes
from tracer.targets.phases import lines_of, rules_of

ROOM = 64


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        (
            PhaseRule("POST", "/api/chat", prefix=False, phase="inference"),
            (b"POST /api/chat ", b"POST /api/chat?"),
        ),
        (PhaseRule("GET", "/api/experimental/", prefix=True, phase="account"), (b"GET /api/experimental/",)),
        (PhaseRule("POST", "/" + "x" * 80, prefix=False, phase="pull"), (b"POST /" + b"x" * 58,)),
    ],
)
def test_a_path_is_met_to_its_end_and_no_further(rule: PhaseRule, lines: tuple[bytes, ...]) -> None:
    """A path ends with a space or a question mark; one for all below it is a prefix; a long one is cut."""
    assert lines_of(rule, ROOM) == lines
    assert all(len(line) <= ROOM for line in lines)


def test_a_runtime_has_its_childrens_paths_and_its_own_first() -> None:
    """Ollama's models run in llama-server, whose API is another runtime's."""
    rules = {(rule.method, rule.path): rule.phase for rule in rules_of(runtimes()["ollama"])}
    own = {(rule.method, rule.path): rule.phase for rule in runtimes()["ollama"].phases}
    child = {(rule.method, rule.path): rule.phase for rule in runtimes()["llama.cpp"].phases}
    assert rules == child | own


def test_every_phase_of_every_runtime_is_one_that_the_kernel_knows() -> None:
    """A profile's phases are those of enum phase in bpf/abi.h, and no path is too long for its table."""
    known = {"idle", "inference", "pull", "account"}
    rules = [rule for one in runtimes().values() for rule in rules_of(one)]
    assert {rule.phase for rule in rules} <= known
    assert not [rule for rule in rules if len(f"{rule.method} {rule.path}") >= ROOM]
