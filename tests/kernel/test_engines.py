"""Two engines, one promise: what one has put in the kernel, the other goes on with."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from jail import Jail, flood
from watched import Tattle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jail import Judge
    from lab import Lab

TURNS = [("libbpf", "bcc"), ("bcc", "libbpf")]


@contextmanager
def started(scratch: Path, engine: str) -> Iterator[Tattle]:
    """Run a daemon with this engine; take away what is left of it."""
    made = Tattle(scratch, "--engine", engine)
    try:
        made.start()
        yield made
    finally:
        made.remove()


def links(daemon: Tattle) -> dict[str, int]:
    """Return the ids of the links at the cgroup root: tracepoints may be attached anew."""
    hooks = daemon.ask("status")["hooks"]
    return {hook["hook"]: hook["link_id"] for hook in hooks if not hook["hook"].startswith("cgroup_")}


@pytest.mark.parametrize(("first", "then"), TURNS)
def test_the_other_goes_on_without_a_gap(
    first: str, then: str, lab: Lab, scratch: Path, judge: Judge
) -> None:
    """Killed under traffic and started with the other engine: same links, counters go on, nothing passes."""
    with started(scratch, first) as daemon:
        cell = Jail(lab, daemon)
        cell.block()
        assert daemon.ask("status")["engine"] == first
        with flood(lab, cell, judge) as names:
            counted, hanging = cell.denials(*names), links(daemon)
            daemon.kill()
            daemon.options = ("--engine", then)
            daemon.start()
            assert daemon.ask("status")["engine"] == then
            assert cell.state()["active"]
            assert links(daemon) == hanging
            assert cell.denials(*names) > counted > 0
