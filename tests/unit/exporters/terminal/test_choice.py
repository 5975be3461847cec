"""What the keys of the live table choose."""

from __future__ import annotations

from typing import Any

import pytest

from exporters.terminal.choice import DOWN, ENTER, ERASE, ESCAPE, UP, Block, Choice, Quit, keys
from exporters.terminal.views import LiveRow


def row(comm: str, sent: int = 0, target: str | None = None, **more: Any) -> LiveRow:  # noqa: ANN401 - JSON
    """Return a line of the table."""
    flow = {
        "comm": comm,
        "pid": 7,
        "target": target,
        "container": None,
        "unit": None,
        "cgroup": "/a",
        "remote_addr": "192.0.2.1",
        "remote_port": 443,
        "name": None,
        "names": [],
        "proto": "tcp",
        "scope": "internet",
        "purpose": None,
        "bytes_out": sent,
        "bytes_in": 0,
        **more,
    }
    return LiveRow(flow, 0.0, 0.0)


ROWS = [row("curl", 1), row("ollama", 9, "ollama"), row("ssh", 5, purpose="updates")]


def comms(choice: Choice, room: int = 10) -> list[str]:
    """Return the processes that are shown."""
    return [one.flow["comm"] for one in choice.arranged(ROWS, room)]


def typed(choice: Choice, *pressed: str) -> object:
    """Press keys, with a picture after each; return what the last one takes."""
    found: object = None
    for key in pressed:
        found = choice.press(key)
        comms(choice)
    return found


def test_keys_are_told_apart() -> None:
    """Arrows in both modes of a terminal; what means nothing here is left out, whatever its length."""
    assert keys("q\x1b[A\x1bOBx\x1b[15~\x1b[1;5Ay\r\x7f\x1b") == [
        "q",
        UP,
        DOWN,
        "x",
        "y",
        ENTER,
        ERASE,
        ESCAPE,
    ]
    assert keys("\x01\x02é") == ["é"]


def test_order_and_filter() -> None:
    """Newest first as given, then by what was sent; a filter looks at all words of a line."""
    choice = Choice(may_block=False)
    assert comms(choice) == ["curl", "ollama", "ssh"]
    typed(choice, "s")
    assert comms(choice) == ["ollama", "ssh", "curl"]
    typed(choice, "/", *"UPDX", ERASE, ENTER)
    assert (choice.filter, comms(choice)) == ("UPD", ["ssh"])
    typed(choice, ESCAPE)
    assert len(comms(choice)) == 3


def test_typing_a_filter_is_no_command() -> None:
    """A q in it is a q."""
    choice = Choice(may_block=True)
    assert typed(choice, "/", "q", "b", " ") is None
    assert (choice.filter, choice.is_paused) == ("qb ", False)
    assert typed(choice, ESCAPE, "q") == Quit()


def test_the_selection_stays_on_the_table() -> None:
    """At its ends, and where lines go."""
    choice = Choice(may_block=False)
    assert comms(choice)
    typed(choice, UP)
    assert choice.selected == 2
    typed(choice, DOWN, DOWN)
    assert choice.selected == 2
    comms(choice, 1)
    assert choice.selected == 0
    typed(choice, "/", *"nothing like it")
    assert choice.selected is None


def test_a_block_takes_a_yes() -> None:
    """Of the target that the question named, though the lines have moved meanwhile."""
    choice = Choice(may_block=True)
    comms(choice)
    assert typed(choice, DOWN, DOWN, "b") is None
    assert "block ollama: " in choice.line()
    choice.arranged([row("other", target="other")], 10)
    assert choice.press("y") == Block("ollama")
    assert typed(choice, DOWN, "b", "n") is None
    assert choice.press("y") is None


@pytest.mark.parametrize(
    ("may", "pressed", "said"),
    [
        (False, (DOWN, DOWN), "takes root and a daemon"),
        (True, (), "select a line"),
        (True, (DOWN,), "in no target"),
    ],
)
def test_what_cannot_be_blocked_is_said(may: bool, pressed: tuple[str, ...], said: str) -> None:  # noqa: FBT001
    """No question is asked."""
    choice = Choice(may_block=may)
    comms(choice)
    assert typed(choice, *pressed, "b") is None
    assert said in choice.line()
    assert typed(choice, "y") is None
