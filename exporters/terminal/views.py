"""What people read: tables for a terminal, plain columns elsewhere. Nothing here decides or counts.

Every text of a stranger comes escaped (tracer/model/text.py) and goes into `Text` objects, never into markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

Json = dict[str, Any]
WIDE: Final = 4096  # columns where no terminal sets a width: nothing is cut
_KIB: Final = 1024
SCOPE_STYLES: Final = {
    "internet": "bold red",
    "lan": "yellow",
    "multicast": "magenta",
    "host": "cyan",
    "loopback": "dim",
    "unknown": "bold magenta",
}
_MARKS: Final = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


class Terminal(Console):
    """A console whose reader may leave, as `head` does: BrokenPipeError then, where rich exits with 1."""

    def on_broken_pipe(self) -> None:
        """Leave it to who asked for the output, and knows the exit code."""
        self.quiet = True
        raise BrokenPipeError


def console() -> Console:
    """Give standard output: with colours on a terminal, plain and as wide as needed elsewhere."""
    found = Terminal(highlight=False, markup=False, emoji=False, soft_wrap=False)
    return (
        found
        if found.is_terminal
        else Terminal(highlight=False, markup=False, emoji=False, width=WIDE, no_color=True)
    )


def size(count: float) -> str:
    """Give a number of bytes in binary units, three digits of it."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"  # noqa: PLR2004 - three digits
        count /= _KIB
    return f"{count:.0f} PiB"


def ago(seconds: float) -> str:
    """Give a span in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def endpoint(flow: Json, *, addresses: bool = False, connection: bool = False) -> str:
    """Give name or address of the remote end with its port, IPv6 in brackets; `other` for a sum of many.

    Names that cannot be told apart stand all there; one behind a question mark is weak: its answer's time is
    over, or it was told to another process. With `addresses` the address stands behind the name. Of a single
    `connection` the name that its client itself said is certain.
    """
    host, port = flow["remote_addr"], flow["remote_port"]
    if host is None:
        return "other"
    if not flow["name"]:
        return _with_port(str(host), port)
    text = _with_port(_names_text(flow["names"], connection=connection), port)
    return f"{text} ({host})" if addresses else text


def _with_port(host: str, port: int | None) -> str:
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_NAMES_SHOWN: Final = 2


def _names_text(names: Sequence[Json], *, connection: bool) -> str:
    """Give the best name and those that are as good; then how many more."""
    best = names[0]
    grade = (best["source"], best["own"], best["expired"])
    equal = [one["name"] for one in names if (one["source"], one["own"], one["expired"]) == grade]
    if connection and best["source"] == "sni":
        equal = equal[:1]
    weak = "?" if best["expired"] or (best["source"] == "dns" and not best["own"]) else ""
    more = f"+{len(equal) - _NAMES_SHOWN}" if len(equal) > _NAMES_SHOWN else ""
    return "|".join(equal[:_NAMES_SHOWN]) + more + weak


def place(flow: Json) -> str:
    """Say where a process belongs: target, container, unit, else its cgroup."""
    return str(flow["target"] or flow["container"] or flow["unit"] or flow["cgroup"] or "?")


def who(flow: Json) -> str:
    """Name a process with its id."""
    name = flow["comm"] or "?"
    return f"{name} ({flow['pid']})" if flow["pid"] is not None else str(name)


def known_text(since: str | None) -> str:
    """Say for which time a target's absence is told: not before all that matches it was known."""
    if since is None:
        return "it is no target of the daemon, what it does outside of its own place is not told apart"
    return f"it is known since {since[:19]}Z"


def same_program_text(same: Json | None) -> str | None:
    """Say what the same program did while it was in no target; None where nothing is known of that."""
    if same is None:
        return None
    tries = f"{same['attempts']} tr{'y' if same['attempts'] == 1 else 'ies'}"
    last = f", last {same['last_seen'][:19]}Z" if same["last_seen"] else ""
    return f"the same program, while it was in no target: {tries}, {size(same['bytes_out'])} out{last}"


def scope_text(name: str | None) -> Text:
    """Give a scope in its colour."""
    return Text(name or "?", style=SCOPE_STYLES.get(name or "", ""))


def table(columns: Iterable[str], right: frozenset[str] = frozenset()) -> Table:
    """Give an empty table without lines; numbers stand on the right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=True, overflow="ellipsis")
    return made


def fitted(text: Text, room: int) -> Text:
    """Cut a name at its beginning, where it needs more room: what stands behind says whose it is."""
    return text if len(text.plain) <= room else Text("…", style=text.style).append_text(text[1 - room :])


_NUMBERS: Final = frozenset({"runs", "entries", "of", "link", "lost"})


def _why(flow: Json) -> Text:
    """Say why a destination is contacted; one that the target's profile does not name stands out."""
    return Text("UNEXPECTED", style="bold red") if flow["unexpected"] else Text(flow["purpose"] or "")


def losses_text(losses: dict[str, int]) -> str:
    """Say what was lost, nothing where nothing was."""
    lost = [f"{reason} {count}" for reason, count in losses.items() if count]
    return f"; LOST: {', '.join(lost)} (tattle status says what to do)" if lost else "; nothing lost"


# What to turn when a loss moves
KNOBS: Final = {
    "ring_full": "limits.ring_bytes (log lines only: counters are exact)",
    "flows_full": "limits.flows (the bytes are in destination=other)",
    "processes_full": "limits.processes",
    "cgroups_full": "limits.cgroups",
    "storage_refused": "memory: the kernel had none for a socket",
    "handshakes_full": "limits.flows",
    "log_full": "room on the disk of the event log",
    "log_blocked": "the reader of the event log",
    "watcher_slow": "the reader of tattle watch",
    "openings_full": "fewer names that share an address (one stays closed; counters are exact)",
    "notices_full": "nothing: what was not told at once is found in a table",
    "samples_full": "nothing: names came too fast to be read (counters are exact)",
    "names_full": "nothing: a program asks for more names than are kept (counters are exact)",
    "history_full": "nothing, or history.max_mb: destinations of an hour that share a sum (no byte is lost)",
    "history_unwritten": "room on the disk of /var/lib/tattle (what has come waits to be written)",
    "history_reset": "nothing: the file was spoiled and is put aside, a new history has begun",
}


def print_status(document: Json, instance: str) -> None:
    """Print the document of `status`."""
    out = console()
    if document["engine"] is None:
        out.print(Text(f"nothing is attached for instance {instance}; start it: sudo tattle run"))
        return
    out.print(Text(f"instance {instance}, engine {document['engine']}, kernel {document['kernel']}\n"))
    hooks = table(("hook", "program", "attached", "link", "runs", "time"), _NUMBERS)
    for hook in document["hooks"]:
        mark = Text("yes", style="green") if hook["attached"] else Text("NO", style="bold red")
        numbers = (str(hook["link_id"] or "-"), str(hook["runs"]), f"{hook['run_ns'] / 1e6:.1f} ms")
        hooks.add_row(Text(hook["hook"]), Text(hook["program"] or "-"), mark, *map(Text, numbers))
    out.print(hooks, "", sep="\n")
    maps = table(("map", "entries", "of", ""), _NUMBERS)
    for one in document["maps"]:
        full = Text("FULL", style="bold red") if one["full"] else Text("")
        maps.add_row(Text(one["map"]), Text(str(one["entries"])), Text(str(one["max_entries"])), full)
    out.print(maps, "", sep="\n")
    _print_targets(out, document["targets"])
    losses = table(("losses", "lost", "what to turn"), _NUMBERS)
    for reason, count in document["losses"].items():
        style = "bold red" if count else ""
        losses.add_row(
            Text(reason, style=style),
            Text(str(count), style=style),
            Text(KNOBS.get(reason, "") if count else ""),
        )
    out.print(losses)


def _print_targets(out: Console, targets: Sequence[Json]) -> None:
    if not targets:
        return
    made = table(("target", "mode", "default", "rules", "active", "cgroups", "phase"))
    for one in targets:
        texts = (one["target"] or "?", one["mode"], one["default"] or "-", _rules(one))
        lifted = one["state"] == "lifted" and one["until"]
        active = "yes" if one["active"] else f"lifted until {one['until']}" if lifted else "NO"
        made.add_row(*map(Text, (*texts, active, str(len(one["cgroup_ids"])), _activity(one))))
    out.print(made, "", sep="\n")


def _rules(one: Json) -> str:
    """Return how many rules there are, and the purposes that are kept."""
    kept = ", ".join(one["keep"])
    return f"{len(one['rules'])} ({kept} kept)" if kept else str(len(one["rules"]))


def _activity(one: Json) -> str:
    """Say what a target does now and how many requests it serves."""
    count = sum((one["requests"] or {}).values())
    return f"{one['phase']}, {count} request{'s' if count > 1 else ''}" if count else str(one["phase"])


def print_report(document: Json) -> None:
    """Print what `doctor` found: a line a check, how to mend it below, then what nobody can see."""
    out = console()
    for check in document["checks"]:
        word, style = _MARKS[check["result"]]
        out.print(Text.assemble((f"{word:<5}", style), f"{check['check']}: {check['said']}"))
        if check["mend"]:
            out.print(Text(f"      to mend it: {check['mend']}", style="dim"))
    out.print(Text("\nwhat tattle cannot see on any host:"))
    for limit in document["limits"]:
        out.print(Text(f"  - {limit}"))


def event_text(event: Json, *, addresses: bool = False) -> str:
    """Give an event as one plain line; `addresses`: that of a named destination, too."""
    clock = event["ts"][11:23]
    if event["event"] == "lost":
        return f"{clock} lost        {event['packets_out']} ({event['result']})"
    if event["event"] in ("dns", "request"):
        return f"{clock} {event['event']:<11} {who(event)} [{place(event)}] {_spoken_text(event)}"
    arrow = "<-" if event["direction"] == "in" else "->"
    moved = ""
    if event["event"] == "close":
        moved = f" out {size(event['bytes_out'])} in {size(event['bytes_in'])}, {event['duration_ms']:.0f} ms"
    outcome = "" if event["result"] in (None, "ok") else f" {event['result']}"
    denied = "" if event["verdict"] == "allowed" else f" {event['verdict']}"
    why = f" ({found})" if (found := _why(event).plain) else ""
    there = f"{endpoint(event, addresses=addresses, connection=True)} {event['proto']} {event['scope']}"
    return (
        f"{clock} {event['event']:<11} {who(event)} [{place(event)}] {arrow} {there}{denied}{outcome}{moved}"
        f"{why}"
    )


def _spoken_text(event: Json) -> str:
    """Say what was asked for, of whom, and what came of it."""
    resolver = _with_port(event["remote_addr"], event["remote_port"])
    if event["event"] == "request":
        done = "" if event["duration_ms"] is None else f", {event['duration_ms']:.0f} ms"
        return f"{event['path'] or '?'} by {resolver} {event['phase']}{done}"
    answers = event["answers"] or []
    more = f" and {len(answers) - _ANSWERS_SHOWN} more" if len(answers) > _ANSWERS_SHOWN else ""
    told = " ".join(answers[:_ANSWERS_SHOWN]) + more if answers else event["result"]
    return f"{event['dns_type']} {event['name']} at {resolver}: {told}"


_ANSWERS_SHOWN: Final = 4


class Rates:
    """Bytes a second of each flow, from what was shown before."""

    def __init__(self) -> None:
        self._before: dict[tuple[object, ...], tuple[float, int, float]] = {}

    def update(self, flows: Sequence[Json], now: float) -> list[float]:
        """Give the rate of each flow; half of it is memory, so that it does not flicker."""
        fresh, rates = {}, []
        for flow in flows:
            key = tuple(
                flow[name] for name in ("pid", "comm", "remote_addr", "remote_port", "proto", "direction")
            )
            total = flow["bytes_out"] + flow["bytes_in"]
            then, before, rate = self._before.get(key, (now, total, 0.0))
            if now > then:
                rate = (rate + (total - before) / (now - then)) / 2
            fresh[key] = (now, total, rate)
            rates.append(rate if rate >= 1 else 0.0)
        self._before = fresh
        return rates


class LiveRow(NamedTuple):
    """A flow as the live table shows it: bytes a second, and seconds since it was seen last."""

    flow: Json
    rate: float
    age: float
    is_selected: bool = False


# What the live table shows from which width of the terminal on; an address is never cut for the rest
_COLUMNS: Final = {
    "process": 0,
    "where": 130,
    "": 0,
    "destination": 0,
    "proto": 90,
    "scope": 70,
    "tries": 120,
    "sent": 50,
    "received": 50,
    "rate": 110,
    "seen": 40,
    "purpose": 150,
}
_DESTINATION: Final = 47  # an IPv6 address in full, its brackets and a port
_NAME_MIN: Final = 22
_PROCESS_MIN: Final = 16
_PROCESS_MAX: Final = 26


def live(
    head: Json, rows: Sequence[LiveRow], source: str, width: int, *, addresses: bool = False
) -> RenderableType:
    """Give one frame of the live table for a terminal of so many columns."""
    shown = [name for name, least in _COLUMNS.items() if width >= least]
    made = table(shown, _NUMBERS | {"tries", "sent", "received", "rate", "seen"})
    lines = [_cells(row, addresses=addresses) for row in rows]
    names = min(max(width // 4, _NAME_MIN), _DESTINATION)
    for row, line in zip(rows, lines, strict=True):
        if row.flow["name"] and not addresses:
            line["destination"] = fitted(line["destination"], names)
    _fit(made, shown, lines, width)
    for row, line in zip(rows, lines, strict=True):
        made.add_row(*(line[name] for name in shown), style="reverse" if row.is_selected else None)
    return Group(_summary(head, len(rows), source), Text(), made)


def _fit(made: Table, shown: Sequence[str], lines: Sequence[dict[str, Text]], width: int) -> None:
    """Give each column what it needs, from the left on, and the purpose what is left."""
    caps = {
        "process": min(max(width // 6, _PROCESS_MIN), _PROCESS_MAX),
        "where": 30,
        "destination": _DESTINATION,
    }
    room = width
    for column, name in zip(made.columns, shown, strict=True):
        widest = max([len(name), *(line[name].cell_len for line in lines)])
        widest = column.max_width = min(widest, caps.get(name, widest), max(room, 1))
        room -= widest + 2
        if name not in ("process", "where", "purpose"):
            column.min_width = min(widest, width // 2)


def _cells(row: LiveRow, *, addresses: bool) -> dict[str, Text]:
    flow = row.flow
    destination = Text(endpoint(flow, addresses=addresses), style="bold red" if flow["unexpected"] else "")
    if flow["unexpected"]:
        destination.append(" unexpected")
    if flow["denied"]:
        destination.append(f" denied {flow['denied']}", style="bold red")
    return {
        "process": Text(who(flow), style="bold"),
        "where": Text(place(flow), style="dim"),
        "": Text("←" if flow["direction"] == "in" else "→"),
        "destination": destination,
        "proto": Text(flow["proto"]),
        "scope": scope_text(flow["scope"]),
        "tries": Text(str(flow["attempts"])),
        "sent": Text(size(flow["bytes_out"])),
        "received": Text(size(flow["bytes_in"])),
        "rate": Text(f"{size(row.rate)}/s" if row.rate else "", style="green"),
        "seen": Text(ago(row.age), style="" if row.age < 10 else "dim"),  # noqa: PLR2004 - busy, in seconds
        "purpose": _why(flow),
    }


def _summary(head: Json, shown: int, source: str) -> Text:
    known = head.get("covered_since", head["since"])
    when = f"since {known[:19]}Z" if known else f"({known_text(known)})"
    text = Text.assemble(("tattle watch", "bold"), f"  {source}  {shown} of {head['count']} flows {when}  ")
    for name, sums in sorted(head["totals"].items()):
        text.append(name, style=SCOPE_STYLES.get(name, ""))
        text.append(f" out {size(sums['bytes_out'])} in {size(sums['bytes_in'])}  ")
    lost = losses_text(head["losses"])
    text.append(lost.removeprefix("; "), style="dim" if lost.endswith("nothing lost") else "bold red")
    text.append(
        "\nCtrl-C ends; tattle watch NAME shows one target; --json gives one event a line", style="dim"
    )
    return text
