"""A log record as one line for people: what happened, what it was about, why, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

APART: Final = frozenset(
    {"event", "level", "error", "hint", "exception", "trouble", "pathname", "lineno", "func_name"}
)
"""Keys with a place of their own in the line, or none; all others are shown as KEY=VALUE."""


def logline(record: Mapping[str, object]) -> str:
    """Return `EVENT KEY=VALUE ...: ERROR; hint: HINT`, strangers' bytes escaped."""
    fields = "".join(f" {key}={_value(value)}" for key, value in record.items() if key not in APART)
    error = f": {escape(str(record['error']))}" if record.get("error") else ""
    hint = f"; hint: {escape(str(record['hint']))}" if record.get("hint") else ""
    trace = f"\n{record['exception']}" if record.get("exception") else ""
    return f"{escape(str(record['event']))}{fields}{error}{hint}{trace}"


def _value(value: object) -> str:
    text = escape(str(value))
    return f'"{text}"' if " " in text or not text else text
