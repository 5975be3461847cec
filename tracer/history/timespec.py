"""Times as people write them: how long ago, or when. Pure: the present is given, in ns since the epoch."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from tracer.errors import UsageError
from tracer.model.text import escape

SECOND: Final = 1_000_000_000  # in ns, as all spans here
HOUR: Final = 3600 * SECOND
_UNITS: Final = {"s": SECOND, "m": 60 * SECOND, "h": HOUR, "d": 24 * HOUR, "w": 168 * HOUR}
_AGO: Final = re.compile(r"([0-9]{1,9})([smhdw])\Z")
# RFC 3339 5.6, and the same without seconds, time or zone: then it is this host's local time
_AT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})?)?\Z"
)
_EXAMPLES: Final = "give 90m, 24h or 7d (ago), '2026-01-31 22:00' (local time) or 2026-01-31T22:00:00Z"


def moment(text: str, now_ns: int) -> int:
    """Give the ns since the epoch that a text means; raises UsageError that quotes it, with examples."""
    if found := _AGO.match(text):
        return max(now_ns - int(found[1]) * _UNITS[found[2]], 0)
    if not _AT.match(text):
        raise UsageError(f"'{escape(text)}' is no time", _EXAMPLES)
    try:
        at = datetime.fromisoformat(text.upper())
        return max(int(at.timestamp()) * SECOND + at.microsecond * 1000, 0)
    except (ValueError, OverflowError):
        raise UsageError(f"'{escape(text)}' is no day or time of any calendar", _EXAMPLES) from None


def span(text: str) -> int:
    """Return the ns that a text like 90s, 10m, 2h or 7d means; raises UsageError that quotes it."""
    found = _AGO.match(text)
    if not found or not int(found[1]):
        raise UsageError(f"'{escape(text)}' is no length of time", "give 90s, 10m, 2h or 1d")
    return int(found[1]) * _UNITS[found[2]]


def window(since: str, until: str | None, now_ns: int) -> tuple[int, int]:
    """Give the whole hours that lie between two times, the last one only as far as it has passed.

    Raises UsageError where there is nothing between them.
    """
    start = moment(since, now_ns)
    end = now_ns if until is None else moment(until, now_ns)
    if start > now_ns:
        raise UsageError(f"--since {escape(since)} lies ahead", _EXAMPLES)
    if end <= start:
        raise UsageError(
            f"nothing lies between --since {escape(since)} and --until {escape(until or 'now')}", _EXAMPLES
        )
    return start - start % HOUR, min(end + -end % HOUR, now_ns)
