"""The page's day: what left by hour and phase, what was denied, and each contact with its reason."""

from __future__ import annotations

from typing import Any

from tests.support.past import HOUR, MIDNIGHT, cell, past
from tracer.history.day import CONTACTS_MAX, document, today
from tracer.history.reader import Gap

HUB = {"name": "ollama.com", "name_source": "sni", "phase": "idle"}


def day(*cells: Any, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - cells and fields of a past
    """Give the day of the target ollama."""
    (one,) = document(past(cells, **changes), ["ollama"])["targets"]
    found: dict[str, Any] = one
    return found


def test_hours_tell_bytes_by_phase_and_denials() -> None:
    """Each hour in which something was, in order; what only tried is there without bytes."""
    found = day(
        cell(**HUB, hour=5, bytes_out=100),
        cell("203.0.113.8", phase="pull", hour=2, bytes_out=7),
        cell("203.0.113.9", phase="pull", hour=2, bytes_out=5),
        cell("203.0.113.9", phase="inference", hour=2, bytes_out=0, denied=3),
    )
    assert found["hours"] == [
        {"hour": "2026-11-29T02:00:00.000000Z", "phases": {"pull": 12}, "denied": 3},
        {"hour": "2026-11-29T05:00:00.000000Z", "phases": {"idle": 100}, "denied": 0},
    ]


def test_contacts_say_whom_and_what_for() -> None:
    """An end that was asked for one purpose is one contact, the newest first, with what stops it."""
    found = day(cell(**HUB), cell("203.0.113.8", **HUB, hour=3), cell("203.0.113.66", hour=7))
    strange, hub = found["contacts"]
    assert (strange["place"], strange["unexpected"]) == ("203.0.113.66", True)
    assert (hub["place"], hub["attempts"], hub["bytes_out"], hub["unexpected"]) == (
        "ollama.com",
        2,
        2000,
        False,
    )
    assert "OLLAMA_NO_CLOUD" in hub["purpose"]
    assert (hub["first_seen"], hub["last_seen"]) == (
        "2026-11-29T00:01:00.000000Z",
        "2026-11-29T03:02:00.000000Z",
    )


def test_what_stays_here_or_came_in_is_not_told() -> None:
    """Loopback, the host's own addresses, and connections that clients made to it; nor other targets'."""
    found = day(
        cell("127.0.0.1", scope="loopback"),
        cell("198.51.100.2", scope="host"),
        cell("192.168.0.9", direction="in"),
        cell(target="vllm"),
        cell(target=None),
    )
    assert found == {"target": "ollama", "hours": [], "contacts": []}


def test_contacts_are_bounded() -> None:
    """The newest are told."""
    cells = [cell(f"203.0.113.{number}", hour=number) for number in range(CONTACTS_MAX + 5)]
    found = [one["place"] for one in day(*cells)["contacts"]]
    assert found == [f"203.0.113.{number}" for number in reversed(range(5, CONTACTS_MAX + 5))]


def test_what_was_not_seen_is_told() -> None:
    """Gaps come with the day, so that no empty hour is taken for a silent one."""
    gap = Gap(MIDNIGHT, MIDNIGHT + HOUR, "stopped")
    found = document(past([], gaps=[gap]), [])
    assert found["gaps"] == [
        {"start": "2026-11-29T00:00:00.000000Z", "end": "2026-11-29T01:00:00.000000Z", "counted": False}
    ]


def test_a_history_that_is_not_there_is_said() -> None:
    """The page shows why there is no day, and everything else as ever."""
    found = today("tattle-no-such-instance", ["ollama"])
    assert "no history" in found["error"]
    assert found["targets"] == []
