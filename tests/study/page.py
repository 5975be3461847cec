"""The page of the study: one short table for those who ask, and one a run for those who look."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.study.observing import Contact, Seen, Told
    from tests.study.runtimes import Run

KIB, MIB = 1024, 1024**2
EXPLANATION = """\
What the servers of a miniature internet were asked ([tests/world](../world/README.md)), what crossed the
wire, and what tattle told of it, stage by stage, from before the first instruction to after the last. Names,
addresses and certificates are those of the miniature internet; the programs do not know. `bytes` are bytes of
IP packets on the wire to and from port 443, counted by nftables; `tattle` is its own count of the first, read
a moment apart, and without the last packets of a connection that no socket has any more (TIME_WAIT). A stage
without requests may have bytes: the ends of connections, and TCP keep-alives on those that stay open.
"""
SHORT = ("start", "idle", "pull", "local prompt", "cloud prompt")


def page(runs: Iterable[Run]) -> str:
    """Return the whole page."""
    runs = list(runs)
    day = datetime.now(UTC).date().isoformat()
    made = f"Made by `make study` on {day}, Linux {platform.release()}, {platform.machine()}."
    parts = ["# Study: what runtimes contact, and when", made, "## Does it phone home?", _short(runs)]
    parts += ["## How it was measured", EXPLANATION]
    for run in runs:
        parts += [f"## {_name(run)}", f"Run was {run.how}.", _table(run), _details(run)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _name(run: Run) -> str:
    version = "" if run.version == "standin" else f" {run.version}"
    return f"{run.title}{version}{f' with {run.setting}' if run.setting else ''}"


def _short(runs: list[Run]) -> str:
    rows = ["| run | " + " | ".join(SHORT) + " |", "|---" * (len(SHORT) + 1) + "|"]
    for run in (run for run in runs if not run.made_up):
        by_stage = {seen.stage: seen for seen in run.seen}
        cells = [_cell(by_stage.get(stage)) for stage in SHORT]
        rows.append(f"| {_name(run)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(seen: Seen | None) -> str:
    if seen is None:
        return "-"
    if seen.refused and not seen.contacts:
        return "nothing: it refuses"
    if seen.contacts:
        return ", ".join(
            f"{one.host}: {_number(one.requests, 'request')}" for one in map(_short_host, seen.contacts)
        )
    return f"nothing but {size(seen.out)} of keep-alives" if seen.out else "nothing"


def _short_host(contact: Contact) -> Contact:
    """Return it with a host's name that fits a table."""
    first, _, rest = contact.host.partition(".")
    return contact._replace(host=f"*.{rest}") if len(first) > 20 else contact


def _table(run: Run) -> str:
    rows = [
        "| stage | asked | connections | DNS questions | bytes out | bytes in | tattle: bytes out |",
        "|---|---|---|---|---|---|---|",
    ]
    for seen in run.seen:
        asked = (
            "; ".join(f"{one.host}: {_number(one.requests, 'request')}" for one in seen.contacts) or "nothing"
        )
        numbers = (seen.connections, seen.questions, seen.out, seen.back, seen.tattle_out)
        rows.append(f"| {seen.stage} | {asked} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(rows)


def _details(run: Run) -> str:
    lines = []
    for seen in run.seen:
        lines += [
            f"- {seen.stage}: {one.host} was asked {', '.join(f'`{what}`' for what in one.asked)}"
            for one in seen.contacts
        ]
        lines += [
            f"- {seen.stage}, says tattle: {told.name} in phase {told.phase}, "
            f"{_number(told.connections, 'new connection')}, {size(told.bytes_out)} out{_why(told)}"
            for told in seen.told
        ]
    return "\n".join(lines) or "It contacted nobody."


def _why(told: Told) -> str:
    """Return what it was for; bytes without payload are of a connection, not of a purpose."""
    return f": {told.purpose}" if told.payload_out else ", no payload: keep-alives and ends of connections"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def size(count: int) -> str:
    """Return bytes as people read them."""
    if count >= MIB:
        return f"{count / MIB:.1f} MiB"
    return f"{count / KIB:.1f} KiB" if count >= KIB else f"{count} B"
