"""Times that people write: what they mean, and a mend for what means nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tracer.errors import UsageError
from tracer.history.timespec import HOUR, SECOND, moment, window

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_796_027_555 * SECOND  # 2026-11-30T08:32:35Z


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this host where winter is an hour ahead of UTC, and summer two."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("24h", 86400), ("7d", 604800), ("2w", 1209600)]
)
def test_a_duration_is_so_long_ago(text: str, seconds: int) -> None:
    """In the units that people use."""
    assert moment(text, NOW) == NOW - seconds * SECOND


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-11-30T07:00:00Z", "2026-11-30T07:00:00"),
        ("2026-11-30t07:00:00z", "2026-11-30T07:00:00"),
        ("2026-11-30T07:00:00+02:00", "2026-11-30T05:00:00"),
        ("2026-11-30 07:00", "2026-11-30T06:00:00"),
        ("2026-11-30", "2026-11-29T23:00:00"),
        ("2026-07-01 12:30", "2026-07-01T10:30:00"),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_a_time_without_zone_is_local(text: str, utc: str) -> None:
    """With the summer time of its own day, not of today."""
    found = time.gmtime(moment(text, NOW) / SECOND)
    assert time.strftime("%Y-%m-%dT%H:%M:%S", found) == utc


@pytest.mark.parametrize(
    "text",
    [
        *("", "24", "h", "-3h", "1.5h", "yesterday", "2026-11-31", "2026-13-01", "2026-11-30 25:00"),
        *("20261130", "0000-01-01", "\x1b[2J", "2026-11-30T07:00:00Z\n", "999999999999h", "²h"),
    ],
)
def test_what_is_no_time_is_quoted(text: str) -> None:
    """With examples of what is one, and harmless to a terminal."""
    with pytest.raises(UsageError) as error:
        moment(text, NOW)
    assert error.value.message.isprintable()
    assert "7d" in error.value.hint


def test_a_span_beyond_the_epoch_begins_there() -> None:
    """Nothing is older."""
    assert moment("999999999w", NOW) == 0


def test_a_window_is_whole_hours() -> None:
    """What is kept is kept by the hour: the one in which it begins counts whole, so does its last."""
    hour = NOW - NOW % HOUR
    assert window("24h", None, NOW) == (hour - 24 * HOUR, NOW)
    assert window("2026-11-30T04:10:00Z", "2026-11-30T05:10:00Z", NOW) == (hour - 4 * HOUR, hour - 2 * HOUR)
    assert window("2026-11-30T04:00:00Z", "2026-11-30T05:00:00Z", NOW) == (hour - 4 * HOUR, hour - 3 * HOUR)
    assert window("2h", "1m", NOW)[1] == NOW


@pytest.mark.parametrize(("since", "until"), [("1h", "2h"), ("1h", "1h"), ("2099-01-01", None)])
def test_an_empty_window_is_a_usage_error(since: str, until: str | None) -> None:
    """Rather than an empty answer."""
    with pytest.raises(UsageError):
        window(since, until, NOW)
