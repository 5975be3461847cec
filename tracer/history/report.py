"""The document of `tattle report`: what was seen, by hour, process, destination and phase. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracer.model.destination import Contact
from tracer.model.records import timestamp
from tracer.model.scope import Scope
from tracer.model.totals import KEYS, matters, totals
from tracer.runtimes.purposes import Purposes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracer.history.query import Past
    from tracer.history.reader import Seen

Json = dict[str, Any]


def document(past: Past) -> Json:
    """Give the document: its frame, sums by scope of what was started here and of replies, and the flows."""
    purposes = Purposes()
    purposes.know(past.runtimes)
    flows = [_flow(cell, past.target, purposes) for cell in past.cells]
    return {**frame(past), "totals": totals(flows, "out"), "accepted": totals(flows, "in"), "flows": flows}


def frame(past: Past) -> Json:
    """Give what both documents say of their window: whole hours, the last one as far as it has passed."""
    return {
        "target": past.target,
        "since": timestamp(past.since_ns),
        "until": timestamp(past.until_ns),
        "last_look": None if past.last_look_ns is None else timestamp(past.last_look_ns),
        "complete": not past.gaps and not matters(past.losses),
        "gaps": [
            {
                "start": timestamp(one.start_ns),
                "end": timestamp(one.end_ns),
                "reason": one.reason,
                "counted": one.counted,
            }
            for one in past.gaps
        ],
        "losses": past.losses,
        "known_since": past.known_since,
        "same_program": _same(past.same),
    }


def _same(cells: Sequence[Seen]) -> Json | None:
    """Sum up what the same program started towards others while it was in no target."""
    away = [one for one in cells if one.direction == "out" and one.scope not in (Scope.LOOPBACK, Scope.HOST)]
    if not away:
        return None
    sums = {key: sum(getattr(one, key) for one in away) for key in ("attempts", "bytes_out")}
    return {**sums, "last_seen": timestamp(max(one.last_ns for one in away))}


def contact(cell: Seen) -> Contact:
    """Give what a profile has to know of a cell."""
    outward = cell.direction == "out"
    return Contact(cell.name, cell.remote_port or 0, cell.scope, cell.phase, outward)


def _flow(cell: Seen, target: str | None, purposes: Purposes) -> Json:
    why = purposes.of(target if cell.target is None else cell.target, contact(cell))
    found = cell._asdict() | {
        "hour": timestamp(cell.hour_ns),
        "purpose": why.text,
        "unexpected": why.unexpected,
        "denied": cell.denied or cell.denied_packets,
        "first_seen": timestamp(cell.first_ns),
        "last_seen": timestamp(cell.last_ns),
    }
    return {key: found[key] for key in KEYS}
