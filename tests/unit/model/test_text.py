"""What people read in the log."""

from __future__ import annotations

from tracer.model.text import logline


def test_a_line_says_what_why_and_what_helps() -> None:
    """What happened first, then what it was about, the reason, and the hint."""
    record = {
        "event": "not enforced",
        "level": "error",
        "target": "unit:x",
        "error": "no room",
        "hint": "raise it",
    }
    assert logline(record) == "not enforced target=unit:x: no room; hint: raise it"


def test_strangers_bytes_are_escaped() -> None:
    """A name from the network forges no line and no terminal sequence."""
    shown = logline({"event": "name refused", "name": "a\nb\x1b[2J c"})
    assert shown.isprintable()
    assert shown.startswith('name refused name="')
