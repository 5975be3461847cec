"""History as the daemon would have kept it, for tests that need no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracer.history.query import Past
from tracer.history.reader import Seen
from tracer.model.records import timestamp
from tracer.model.scope import packed, scope
from tracer.runtimes.profiles import runtimes

if TYPE_CHECKING:
    from collections.abc import Iterable

HOUR = 3600 * 10**9
MIDNIGHT = 20_786 * 24 * HOUR
"""2026-11-29T00:00:00Z."""
OLLAMA = runtimes()["ollama"]


def cell(addr: str | None = "203.0.113.7", **changes: Any) -> Seen:  # noqa: ANN401 - fields are of many kinds
    """Give what ollama did towards an address in the hour after midnight: a connection of 1,000 bytes."""
    at = MIDNIGHT + changes.pop("hour", 0) * HOUR
    raw = packed(addr) if addr is not None else None
    name = changes.get("name")
    row = Seen(
        *(at, "ollama", "ollama", "systemd", "/usr/bin/ollama", 990, "/system.slice/ollama.service"),
        *("ollama.service", None, name, "dns" if name else "none", addr, 443, "tcp"),
        *(str(scope(raw)) if raw else "unknown", "out", "unknown", 1, 1, 0, 0, 0, 1000, 2000, 5, 6, 700),
        *(at + 60 * 10**9, at + 120 * 10**9),
    )
    return row._replace(**changes)


def past(cells: Iterable[Seen], **changes: Any) -> Past:  # noqa: ANN401 - likewise
    """Give a day of history of the target ollama, without a gap."""
    whole = Past(
        instance="tattle",
        target="ollama",
        since_ns=MIDNIGHT,
        until_ns=MIDNIGHT + 24 * HOUR,
        cells=list(cells),
        gaps=[],
        losses={"ring_full": 0},
        last_look_ns=MIDNIGHT + 24 * HOUR,
        runtimes={"ollama": OLLAMA},
        known_since=timestamp(MIDNIGHT),
    )
    return whole._replace(**changes)
