"""Tables for a terminal and for a file out of one run's results."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.goals import Verdict
from tests.bench.rounds import Spread, overhead, overhead_ratio, quartiles

Rows = list[tuple[str, ...]]


def ns(spread: Spread) -> str:
    """Show a time with its interval."""
    return f"{spread.value:,.0f} ({spread.low:,.0f}-{spread.high:,.0f})"


def ratio(spread: Spread) -> str:
    """Show a ratio with its interval."""
    return f"{spread.value:.2f} ({spread.low:.2f}-{spread.high:.2f})"


def load_rows(road: Mapping[str, Mapping[str, Sequence[float]]]) -> Rows:
    """Kind by variant: time, what it adds, and that in units of empty hooks."""
    rows: Rows = []
    for kind, cell in road.items():
        for variant, samples in cell.items():
            added = relative = ""
            if variant != "none" and "none" in cell:
                added = ns(overhead(samples, cell["none"]))
                if "empty" in cell:
                    relative = ratio(overhead_ratio(samples, cell["empty"], cell["none"]))
            rows.append((kind, variant, ns(quartiles(samples)), added, relative))
    return rows


LOAD_HEAD = ("load", "variant", "ns/op (quartiles)", "added to none (95 %)", "added / empty's (95 %)")


def program_rows(road: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Rows:
    """Show what the kernel's clock says of each program, and their sum for an operation."""
    rows: Rows = []
    for kind, variants in road.items():
        for variant, programs in variants.items():
            parts = "  ".join(f"{name} {runs:g}x{spent:.0f}" for name, (runs, spent) in programs.items())
            total = sum(runs * spent for runs, spent in programs.values())
            rows.append((kind, variant, f"{total:,.0f}", parts))
    return rows


PROGRAM_HEAD = ("load", "variant", "ns of BPF/op", "program runs/op x ns/run")


def goal_rows(verdicts: Sequence[Verdict]) -> Rows:
    """Show the promises."""
    return [(v.what, v.goal, ratio(v.measured), _word(v)) for v in verdicts]


def _word(verdict: Verdict) -> str:
    word = "met" if verdict.met else "MISSED"
    return word if verdict.sure else f"{word}, not sure"


GOAL_HEAD = ("promise", "goal", "measured (95 %)", "")


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """Describe the machine in a few words."""
    noise = (
        f"load average at the start {machine['load_average']:.2f}, stolen {machine['stolen_percent']:.1f} % "
        f"of the time, none's quartiles {machine['noise_percent']:.1f} % apart (median of the loads)"
    )
    where = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, {machine['date']}"
    beside = f"{machine['disturbed']} of the variants' turns ran beside BPF programs of others"
    return [where, noise, *([beside] if machine["disturbed"] else [])]


def show(console: Console, title: str, head: Sequence[str], rows: Rows) -> None:
    """Show one table on the terminal."""
    table = Table(*head, title=title, title_justify="left")
    last = ""
    for row in rows:
        if last and row[0] != last and len(head) > 4:
            table.add_section()
        last = row[0]
        table.add_row(*row)
    console.print(table)


def markdown(title: str, head: Sequence[str], rows: Rows) -> str:
    """Give the same table as Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"
