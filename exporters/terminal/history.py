"""`tattle report` and `tattle suggest` for people: one page each; and the report as CSV.

Times are this host's local ones here, and UTC in CSV.
"""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from exporters.terminal.table import LONGEST, UNEXPECTED, Column, arrow, denials, mark, print_fitted, summed
from exporters.terminal.views import (
    KNOBS,
    console,
    known_text,
    place,
    same_program_text,
    scope_text,
    size,
)
from tracer.model.text import escape
from tracer.model.totals import KEYS, matters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

Json = dict[str, Any]
_ROWS_MAX: Final = 40  # of a page for people; JSON and CSV have all
_BARS: Final = "▁▂▃▄▅▆▇█"
_BARS_MAX: Final = 48  # columns; where there are more hours each stands for several
_UNSEEN: Final = "?"
_HERE: Final = frozenset({"loopback", "host"})
_HOUR: Final = timedelta(hours=1)
_MINUTE: Final = timedelta(minutes=1)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # as spreadsheets begin one
_MANY: Final = {"try": "tries"}
_GAPS: Final = {
    "stopped": "tattle was off {span}",
    "killed": "tattle was killed, or could not write, {span}",
    "pruned": "hours before {end} are not kept any more ([history] days, max_mb)",
    "before": "history begins {end}",
}
_AWAY: Final = frozenset({"stopped", "killed"})
_COUNTED: Final = "the kernel went on counting, and what came then is in the sums, some of it in a later hour"
_UNKNOWN: Final = "nothing is known of that time"


def print_csv(document: Json) -> None:
    """Write the flows as CSV (RFC 4180); no cell is a formula to a spreadsheet."""
    out = csv.writer(sys.stdout, lineterminator="\r\n")
    out.writerow(KEYS)
    for flow in document["flows"]:
        out.writerow([_cell(flow[key]) for key in KEYS])


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = escape(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def print_history(document: Json) -> None:
    """Print the document of `report` as one page."""
    out = console()
    _print_frame(out, document)
    flows = document["flows"]
    if not flows:
        out.print(Text(f"nothing was sent or received{'' if _is_known(document) else ' that is known of'}"))
        return
    _print_sentence(out, document)
    _print_hours(out, document)
    outside = [flow for flow in flows if flow["scope"] not in _HERE]
    rows = sorted(
        _rows(outside), key=lambda one: (not one["unexpected"], -one["bytes_out"], -one["bytes_in"])
    )
    if rows:
        out.print()
        _print_rows(out, rows[:_ROWS_MAX], whole=document["target"] is not None)
    for more in [rows[_ROWS_MAX:]] if len(rows) > _ROWS_MAX else []:
        sent, got = (size(sum(one[key] for one in more)) for key in ("bytes_out", "bytes_in"))
        out.print(Text(f"and {len(more)} more with {sent} out, {got} in: --csv and --json have them all"))
    here = [flow for flow in flows if flow["scope"] in _HERE and flow["direction"] == "out"]
    if here:
        out.print(Text(f"on this host itself: {size(sum(one['bytes_out'] for one in here))}"))


def _is_known(document: Json) -> bool:
    """Whether all that matches the target was known from the beginning of the window on."""
    known: str | None = document["known_since"]
    return document["target"] is None or (known is not None and known <= document["since"])


def _print_frame(out: Console, document: Json) -> None:
    """Say of whom and when, what was not seen, and what was lost."""
    since, until = _time(document["since"]), _time(document["until"])
    who = document["target"] or "this host"
    out.print(
        Text.assemble((escape(who), "bold"), f", {_said(since)} - {_said(until)} {until:%Z}, by whole hours")
    )
    for gap in document["gaps"]:
        start, end = _time(gap["start"]), _time(gap["end"])
        span = f"from {_said(start)} on" if end == until else f"{_said(start)} - {_until(start, end)}"
        said = _GAPS[gap["reason"]].format(span=span, end=_said(end))
        if gap["reason"] in _AWAY:
            said += f": {_COUNTED if gap['counted'] else _UNKNOWN}"
        out.print(Text(f"  {said}", style="yellow"))
    for reason, count in matters(document["losses"]).items():
        knob = f": {KNOBS[reason]}" if reason in KNOBS else ""
        out.print(Text(f"  lost: {reason} {count}{knob}", style="bold red"))
    if not _is_known(document):
        out.print(Text(f"  {known_text(document['known_since'])}", style="yellow"))
    if same := same_program_text(document["same_program"]):
        out.print(Text(f"  {same}", style="yellow"))
    whole = "all of it was seen; " if document["complete"] and _is_known(document) else ""
    last = _said(_time(document["last_look"]), seconds=True) if document["last_look"] else "never"
    out.print(Text(f"  {whole}the last look was {last}\n"))


def _print_sentence(out: Console, document: Json) -> None:
    """Answer the question in a line."""
    sent = [flow for flow in document["flows"] if flow["scope"] == "internet" and flow["direction"] == "out"]
    places = {_name(flow): flow["unexpected"] for flow in sent if flow["packets_out"]}
    odd = [name for name, unexpected in places.items() if unexpected]
    denied = sum(flow["denied"] for flow in document["flows"])
    text = f"sent {size(document['totals']['internet']['bytes_out'])} to {_count(len(places), 'place')}"
    out.print(
        Text.assemble(
            (f"{text} on the internet", "bold"),
            (f"; {len(odd)} not expected" if odd else "", "bold red"),
            f"; {_count(denied, 'denial')}" if denied else "",
        )
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what if number == 1 else _MANY.get(what, f'{what}s')}"


def _print_hours(out: Console, document: Json) -> None:
    """Print what went to the internet as a bar for each hour, or for several."""
    start, end = _time(document["since"]), _time(document["until"])
    hours = max(-((start - end) // _HOUR), 1)
    step = -(-hours // _BARS_MAX)
    sums = [0] * -(-hours // step)
    for flow in document["flows"]:
        if flow["scope"] == "internet" and flow["direction"] == "out":
            sums[(_time(flow["hour"]) - start) // _HOUR // step] += flow["bytes_out"]
    most = max(sums)
    if not most:
        return
    spans = [(start + _HOUR * step * at, start + _HOUR * step * (at + 1)) for at in range(len(sums))]
    bars = "".join(
        _BARS[min(count * len(_BARS) // most, len(_BARS) - 1)] if count else _blank(document, *span)
        for count, span in zip(sums, spans, strict=True)
    )
    peak = spans[sums.index(most)][0]
    each = "an hour" if step == 1 else f"{step} hours"
    unseen = f"; {_UNSEEN} not all was seen" if _UNSEEN in bars else ""
    out.print(Text.assemble(f"{start:%H:%M} ", (bars, "cyan"), f" {end:%H:%M}"))
    out.print(Text(f"{each} a column; the most, {size(most)}, {_said(peak)}{unseen}", style="dim"))


def _blank(document: Json, start: datetime, end: datetime) -> str:
    """Tell a time without traffic from one of which a minute or more is unknown."""
    times = ((_time(gap["start"]), _time(gap["end"])) for gap in document["gaps"])
    unseen = any(min(end, gone) - max(start, since) >= _MINUTE for since, gone in times)
    return _UNSEEN if unseen else "·"


def _rows(flows: Iterable[Json]) -> list[Json]:
    """Sum up over hours, processes of the same name and addresses of the same name."""
    return summed(flows, _row, _SUMMED)


def _row(flow: Json) -> object:
    where = flow["name"] or flow["remote_addr"]
    port, proto, phase = flow["remote_port"], flow["proto"], flow["phase"]
    return place(flow), flow["comm"], flow["direction"], where, port, proto, phase


_SUMMED: Final = ("attempts", "denied", "would_deny", "bytes_out", "bytes_in")


def _columns() -> dict[str, Column]:
    return {
        "process": Column(lambda one: Text(one["comm"] or "?")),
        "in target/unit": Column(lambda one: Text(place(one)), 120),
        "": Column(arrow),
        LONGEST: Column(_destination),
        "scope": Column(lambda one: scope_text(one["scope"]), 100),
        "phase": Column(lambda one: Text(one["phase"]), 70),
        "when": Column(lambda one: Text(_when(one)), 90),
        "tries": Column(lambda one: Text(str(one["attempts"])), 110),
        "denied": Column(denials),
        "would deny": Column(lambda one: Text(str(one["would_deny"]))),
        "out": Column(lambda one: Text(size(one["bytes_out"]))),
        "in": Column(lambda one: Text(size(one["bytes_in"])), 80),
        UNEXPECTED: Column(mark),
    }


def _unsaid(rows: Sequence[Json], *, whole: bool) -> Iterator[str]:
    """Yield the columns that say the same everywhere; `whole`: all rows are one target's."""
    yield from (
        name for name in ("denied", "would deny") if not any(one[name.replace(" ", "_")] for one in rows)
    )
    yield from (name for name in ("scope", "phase") if {one[name] for one in rows} <= {"internet", "unknown"})
    if not any(one["unexpected"] for one in rows):
        yield UNEXPECTED
    if whole and len({place(one) for one in rows}) == 1:
        yield "in target/unit"


def _print_rows(out: Console, rows: Sequence[Json], *, whole: bool) -> None:
    """Print the table, and below it why each place is contacted."""
    unsaid = set(_unsaid(rows, whole=whole))
    shown = {name: column for name, column in _columns().items() if name not in unsaid}
    print_fitted(out, shown, rows, [(_name(one), one["purpose"]) for one in rows if one["purpose"]])


def _destination(flow: Json) -> Text:
    return Text(_where(flow), style="bold red" if flow["unexpected"] else "")


def _name(flow: Json) -> str:
    return str(flow["name"] or flow["remote_addr"] or "other")


def _where(flow: Json) -> str:
    host = _name(flow)
    port = flow["remote_port"]
    shown = f"[{host}]" if ":" in host and port is not None else host
    proto = "" if flow["proto"] == "tcp" else f"/{flow['proto']}"
    return f"{shown}:{port}{proto}" if port is not None else f"{shown} {flow['proto']}"


def _when(flow: Json) -> str:
    first, last = _time(flow["first_seen"]), _time(flow["last_seen"])
    start, end = f"{first:%a %H:%M}", f"{last:%a %H:%M}" if first.date() != last.date() else f"{last:%H:%M}"
    return start if f"{first:%a %H:%M}" == f"{last:%a %H:%M}" else f"{start} - {end}"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).astimezone()


def _until(start: datetime, end: datetime) -> str:
    """Give the end of a span, its day only where it is another one."""
    return f"{end:%H:%M}" if start.date() == end.date() else _said(end)


def _said(at: datetime, *, seconds: bool = False) -> str:
    return f"{at:%a %d %b %H:%M}" + (f":{at:%S}" if seconds else "")


_STEPS: Final = {
    "audit these rules for some days; nothing is denied": "audit",
    "look what would have been denied": "look",
    "enforce them": "enforce",
}


def print_suggestion(document: Json) -> None:
    """Print the document of `suggest`: the rules, what is left out, and the way from here to a policy."""
    out = console()
    _print_frame(out, document)
    if not document["rules"]:
        known = "" if _is_known(document) else "as far as it is known, "
        out.print(Text(f"{known}nothing that it started needs a rule: it can be blocked whole\n"))
    for title, key in (
        ("these rules allow what was seen", "rules"),
        (f"left out, UNEXPECTED: the profile of {document['profile']} does not name it", "unexpected"),
        ("left out: asking for names, any of which carries data out", "lookups"),
        ("left out: it was denied; --allow RULE lets it pass", "denied"),
    ):
        _print_rules(out, title, document[key])
    for caution in document["cautions"]:
        out.print(Text(f"mind: {caution}\n", style="yellow"), soft_wrap=True)
    for number, (says, command) in enumerate(_STEPS.items(), 1):
        out.print(Text(f"{number}. {says}:"))
        out.print(Text(f"   sudo {document['commands'][command]}", style="bold"), soft_wrap=True)
    if document["keep"]["command"]:
        says = "or tighter, what its profile names only while a request that needs it is in flight: "
        out.print(Text.assemble(says, (f"sudo {document['keep']['command']}", "bold")), soft_wrap=True)


def _print_rules(out: Console, title: str, rules: Sequence[Json]) -> None:
    """Print each rule with what was seen of it, and below it why."""
    if rules:
        out.print(Text(f"{title}:", style="bold"))
    for one in rules:
        counts = [
            _count(one["attempts"], "try"),
            f"{size(one['bytes_out'])} out",
            f"{size(one['bytes_in'])} in",
        ]
        counts += [f"{one['denied']} denied"] if one["denied"] else []
        counts += [f"{one['would_deny']} would be denied"] if one["would_deny"] else []
        last = _said(_time(one["last_seen"]))
        out.print(
            Text.assemble("  ", (one["rule"], "bold"), f"  {', '.join(counts)}, last {last}"), soft_wrap=True
        )
        for why in (one["purpose"], one["note"]):
            if why:
                out.print(Text(f"      {why}", style="dim"), soft_wrap=True)
    if rules:
        out.print()
