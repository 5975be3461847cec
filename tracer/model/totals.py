"""Sums over flows, and the keys of a flow in a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tracer.model.process import KIND

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]

SCOPES: Final = ("internet", "lan", "multicast", "host", "loopback")


SUMS: Final = ("attempts", "denied", "bytes_out", "bytes_in", "payload_out")
Sums = dict[str, int | None]  # None: not known, as what an older history did not count


def totals(flows: Iterable[Json], direction: str) -> dict[str, Sums]:
    """Sum flows of one direction up by scope; the scopes of the contract are always there."""
    found: dict[str, Sums] = {scope: dict.fromkeys(SUMS, 0) for scope in SCOPES}
    for flow in flows:
        if flow["direction"] == direction:
            add_counts(found.setdefault(flow["scope"], dict.fromkeys(SUMS, 0)), flow)
    return found


def add_counts(sums: Sums, flow: Json) -> None:
    """Add a flow's SUMS to `sums`."""
    for name in SUMS:
        before, more = sums[name], flow[name]
        sums[name] = None if before is None or more is None else before + more


# The keys of one of `flows`, in their order; as those of `tattle flows`, for one hour
WHERE: Final = ("proto", "direction", "remote_addr", "remote_port", "name", "name_source")


COUNTS: Final = ("attempts", "established", "denied", "would_deny")


SIZES: Final = ("bytes_out", "bytes_in", "packets_out", "packets_in", "payload_out")


KEYS: Final = (
    *("hour", *KIND, *WHERE, "purpose", "unexpected", "scope", "phase"),
    *(*COUNTS, *SIZES, "first_seen", "last_seen"),
)


# Lines of a log or for a watcher: no counter knows less for it. What could not be written was written later,
# or there is a gap. An answer without room opens nothing, and what was denied for it is counted.
_HARMLESS: Final = frozenset(
    {
        "ring_full",
        "log_full",
        "log_blocked",
        "log_closed",
        "journal_full",
        "watcher_slow",
        "events_unread",
        "history_unwritten",
        "openings_full",
        "notices_full",
    }
)


def matters(losses: dict[str, int]) -> dict[str, int]:
    """Give the losses for which the history knows less."""
    return {reason: count for reason, count in losses.items() if count and reason not in _HARMLESS}
