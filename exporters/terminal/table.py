"""Tables that fit their terminal: columns give way, and names are cut at their beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.text import Text

from exporters.terminal.views import fitted, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import Console

Json = dict[str, Any]
LONGEST: Final = "destination"
UNEXPECTED: Final = " "  # the head of the column that marks
_NUMBERS: Final = frozenset({"pid", "tries", "established", "denied", "would deny", "out", "in"})
_ROOM_MIN: Final = 16


class Column(NamedTuple):
    """A column of the table, and from which width of a terminal on it is shown."""

    cell: Callable[[Json], Text]
    least: int = 0


def print_fitted(
    out: Console, columns: Mapping[str, Column], rows: Sequence[Json], why: Iterable[tuple[str, str]]
) -> None:
    """Print a table, and below it why each place is contacted: (name, purpose)."""
    shown = {name: column for name, column in columns.items() if out.width >= column.least}
    cells = [{name: column.cell(one) for name, column in shown.items()} for one in rows]
    widths = {name: max(len(name), *(line[name].cell_len for line in cells)) for name in shown}
    room = max(out.width - sum(widths.values()) - 2 * len(shown) + widths[LONGEST], _ROOM_MIN)
    made = table(shown, _NUMBERS)
    for line in cells:
        line[LONGEST] = fitted(line[LONGEST], room)
        made.add_row(*line.values())
    out.print(made)
    reasons = sorted(set(why))
    if reasons:
        out.print()
    for name, purpose in reasons:
        out.print(Text(f"{name}: {purpose}", style="dim"), soft_wrap=True)


def arrow(flow: Json) -> Text:
    """Show who began it."""
    return Text("<-" if flow["direction"] == "in" else "->")


def mark(flow: Json) -> Text:
    """Mark what the target's profile does not name."""
    return Text("UNEXPECTED" if flow["unexpected"] else "", style="bold red")


def denials(flow: Json) -> Text:
    """Give the number of denials; one stands out."""
    return Text(str(flow["denied"]), style="bold red" if flow["denied"] else "")


def summed(flows: Iterable[Json], key: Callable[[Json], object], counters: Sequence[str]) -> list[Json]:
    """Sum up flows of one key, in the order in which they come."""
    found: dict[object, Json] = {}
    for flow in flows:
        one = found.setdefault(key(flow), flow | dict.fromkeys(counters, 0))
        for name in counters:
            one[name] += flow[name]
        one["first_seen"] = min(one["first_seen"], flow["first_seen"])
        one["last_seen"] = max(one["last_seen"], flow["last_seen"])
    return list(found.values())
