"""`tattle flows` for people: a line for each process, destination and phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from exporters.terminal.table import UNEXPECTED, Column, arrow, denials, mark, print_fitted, summed
from exporters.terminal.views import (
    console,
    endpoint,
    losses_text,
    place,
    same_program_text,
    scope_text,
    size,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Json = dict[str, Any]
_COUNTERS: Final = ("attempts", "established", "denied", "bytes_out", "bytes_in")
_TOLD_APART: Final = ("pid", "comm", "direction", "proto", "scope", "phase", "unexpected", "purpose")


def print_flows(answer: Json, *, addresses: bool = False, whole: bool = False) -> None:
    """Print the document of `flows`; `addresses`: those of named destinations, too; `whole`: of targets."""
    out, flows = console(), answer["flows"]
    rows = _rows(flows, addresses=addresses)
    if rows:
        unsaid = set(_unsaid(rows, whole=whole))
        shown = {name: one for name, one in _columns().items() if name not in unsaid}
        print_fitted(out, shown, rows, [(_name(one), one["purpose"]) for one in rows if one["purpose"]])
        out.print()
    many = f"{len(flows)} flow{'' if len(flows) == 1 else 's'}"
    if len(rows) < len(flows):
        many += f" in {len(rows)} lines"
    out.print(Text(f"{many} {_since(answer)}{losses_text(answer['losses'])}"), soft_wrap=True)
    if same := same_program_text(answer.get("same_program")):
        out.print(Text(same), soft_wrap=True)
    for one in answer.get("refused", ()):
        out.print(Text(_refusal(one)), soft_wrap=True)


def _refusal(one: Json) -> str:
    """Say what was refused, why where that is not plain, and what allows it."""
    if not one["command"]:
        return f"refused {one['name']}; it is allowed {one['when']}"
    allow = f"to allow it: sudo {one['command']}"
    if "answer" not in one:
        return f"refused {one['name']}; {allow}"
    name, age_s = one["answer"]["name"], one["answer"]["age_seconds"]
    return (
        f"refused {one['name']}: {name} is allowed, but the answer that opened it was {age_s} s old,"
        f" and its time over; the program has to ask again. Where it does not, {allow}"
    )


def _since(answer: Json) -> str:
    """Say for which time this is all that there was: only while what matches was known."""
    covered = answer.get("covered_since", answer["since"])
    if covered is None:
        return (
            f"since {answer['since'][:19]}Z, of what its cgroups hold now: it is no target of the"
            " daemon, what else it did is not told apart (tattle run --target)"
        )
    return f"since {covered[:19]}Z"


def _rows(flows: Sequence[Json], *, addresses: bool) -> list[Json]:
    """Sum up what reads the same; the ports of those who connect to a server here are chance, and many."""

    def shown(flow: Json) -> Json:
        end = flow | {"remote_port": None} if flow["direction"] == "in" else flow
        return end | {"end": endpoint(end, addresses=addresses), "place": place(end)}

    return summed(
        map(shown, flows), lambda one: (one["end"], one["place"], *map(one.get, _TOLD_APART)), _COUNTERS
    )


def _columns() -> dict[str, Column]:
    return {
        "process": Column(lambda one: Text(one["comm"] or "?")),
        "pid": Column(lambda one: Text(str(one["pid"] or "-")), 80),
        "in target/unit": Column(lambda one: Text(one["place"]), 120),
        "": Column(arrow),
        "destination": Column(lambda one: Text(_end(one), style="bold red" if one["unexpected"] else "")),
        "scope": Column(lambda one: scope_text(one["scope"]), 130),
        "phase": Column(lambda one: Text(one["phase"]), 90),
        "tries": Column(lambda one: Text(str(one["attempts"])), 100),
        "established": Column(lambda one: Text(str(one["established"])), 150),
        "denied": Column(denials),
        "out": Column(lambda one: Text(size(one["bytes_out"]))),
        "in": Column(lambda one: Text(size(one["bytes_in"])), 70),
        "last seen": Column(lambda one: Text(one["last_seen"][:19] + "Z"), 150),
        UNEXPECTED: Column(mark),
    }


def _name(flow: Json) -> str:
    return str(flow["name"] or flow["remote_addr"])


def _end(flow: Json) -> str:
    return flow["end"] if flow["proto"] == "tcp" else f"{flow['end']}/{flow['proto']}"


def _unsaid(rows: Sequence[Json], *, whole: bool) -> Iterator[str]:
    """Yield the columns that say the same everywhere."""
    if not any(one["denied"] for one in rows):
        yield "denied"
    if not any(one["unexpected"] for one in rows):
        yield UNEXPECTED
    if {one["phase"] for one in rows} <= {"unknown"}:
        yield "phase"
    if whole and len({one["place"] for one in rows}) == 1:
        yield "in target/unit"
