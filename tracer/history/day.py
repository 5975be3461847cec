"""A day of each target as the page shows it: bytes and denials by hour and phase, contacts in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tracer.errors import HostError
from tracer.history.query import look_back
from tracer.history.report import contact
from tracer.model.records import timestamp
from tracer.model.scope import Scope
from tracer.runtimes.purposes import Purposes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tracer.history.query import Past
    from tracer.history.reader import Seen

Json = dict[str, Any]

CONTACTS_MAX: Final = 40
"""Contacts of one target that are told, the newest ones."""
_NEAR: Final = frozenset({Scope.LOOPBACK, Scope.HOST})


def today(instance: str, targets: Iterable[str]) -> Json:
    """Read the last 24 hours of these targets; a history that cannot be read is told under `error`."""
    try:
        return document(look_back(instance, None, "24h", None), targets)
    except HostError as error:
        return {"error": error.message, "targets": []}


def document(past: Past, targets: Iterable[str]) -> Json:
    """Return what each target started towards others in the hours of the window, and what was not seen.

    `hours` are those in which something was, by the start of each; bytes are of IP packets that left.
    """
    purposes = Purposes()
    purposes.know(past.runtimes)
    away = [one for one in past.cells if one.direction == "out" and one.scope not in _NEAR]
    return {
        "since": timestamp(past.since_ns),
        "until": timestamp(past.until_ns),
        "gaps": [
            {"start": timestamp(one.start_ns), "end": timestamp(one.end_ns), "counted": one.counted}
            for one in past.gaps
        ],
        "targets": [
            {"target": name, "hours": _hours(mine), "contacts": _contacts(mine, purposes)}
            for name in targets
            for mine in [[one for one in away if one.target == name]]
        ],
    }


def _hours(cells: Sequence[Seen]) -> list[Json]:
    found: dict[int, Json] = {}
    for one in cells:
        hour = found.setdefault(one.hour_ns, {"hour": timestamp(one.hour_ns), "phases": {}, "denied": 0})
        if one.bytes_out:
            hour["phases"][one.phase] = hour["phases"].get(one.phase, 0) + one.bytes_out
        hour["denied"] += one.denied or one.denied_packets
    return [found[start] for start in sorted(found)]


def _contacts(cells: Iterable[Seen], purposes: Purposes) -> list[Json]:
    """Return the ends that were contacted, each for one purpose; the newest first."""
    found: dict[tuple[str, str | None], Json] = {}
    for one in sorted(cells, key=lambda cell: cell.first_ns):
        why = purposes.of(one.target, contact(one))
        place = one.name or one.remote_addr or "addresses that found no room"
        told = found.setdefault(
            (place, why.text),
            {
                "place": place,
                "purpose": why.text,
                "unexpected": why.unexpected,
                **dict.fromkeys(("attempts", "denied", "bytes_out"), 0),
                "first_seen": timestamp(one.first_ns),
                "last_ns": 0,
            },
        )
        told["attempts"] += one.attempts
        told["denied"] += one.denied or one.denied_packets
        told["bytes_out"] += one.bytes_out
        told["last_ns"] = max(told["last_ns"], one.last_ns)
    newest = sorted(found.values(), key=lambda told: told["last_ns"], reverse=True)[:CONTACTS_MAX]
    return [told | {"last_seen": timestamp(told.pop("last_ns"))} for told in newest]
