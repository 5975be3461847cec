"""The report of `prove` as one HTML page: no script, nothing from elsewhere, light and dark, printable.

The timeline is inline SVG: the requests of a runtime as bars by phase, what left as columns, attempts and
denials as ticks. Every text goes through `html.escape`, whoever wrote it.
"""

from __future__ import annotations

from datetime import datetime
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from exporters.terminal.proof import FLOW_HEAD, MEANS, flow_cells, leaving, socket_text, subject, windows
from exporters.terminal.views import endpoint, size, who
from tracer.model import text as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]

_WIDTH, _LEFT, _RIGHT = 920, 90, 10
_LANE: Final = 14
_LANES_MAX: Final = 12
_COLUMNS: Final = 60
_HIGH: Final = 70
_ROWS: Final = 200

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2330; --dim: #5d6575; --paper: #fff; --line: #d9dde5;
 --good: #18794e; --bad: #c0262d; --unsure: #9a6700; --bytes: #3b6fd4;
 --inference: #7a4fd0; --pull: #0f8a8a; --startup: #b8730f; --account: #b03a8c; --idle: #8791a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #9aa3b3; --paper: #14171d;
 --line: #313845; --good: #4cc38a; --bad: #ff6369; --unsure: #e5b567; --bytes: #7aa2f7; --inference: #b49cf5;
 --pull: #57c7c7; --startup: #e0a458; --account: #e07cc0; --idle: #6b7486; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem; background: var(--paper); color: var(--ink);
 font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.9rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, ul { margin: .4rem 0; } ul { padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
.no-egress { color: var(--good); } .egress { color: var(--bad); } .incomplete { color: var(--unsure); }
.dim { color: var(--dim); } .mono { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th { text-align: left; font-weight: 600; } th, td { padding: .2rem .6rem .2rem 0;
 border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
td.n, th.n { text-align: right; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--dim); font-size: 11px; }
.axis { stroke: var(--line); } .column { fill: var(--bytes); } .attempt { stroke: var(--dim); }
.deny { stroke: var(--bad); stroke-width: 2; } .bar { fill: var(--idle); }
.bar.inference { fill: var(--inference); } .bar.pull { fill: var(--pull); }
.bar.startup { fill: var(--startup); } .bar.account { fill: var(--account); }
@media print { body { max-width: none; padding: 0; font-size: 11px; } h2 { break-after: avoid; }
 tr, svg { break-inside: avoid; } }
"""


def _safe(text: object) -> str:
    """Give a text for HTML: nothing in it can be markup, control or reorder."""
    return escape(names.escape(str(text)), quote=True)


def page(report: Json) -> str:
    """Give the whole page."""
    verdict = _safe(report["verdict"])
    window = report["window"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>tattle prove: {verdict}</title><style>{_STYLE}</style></head><body>",
        f'<h1 class="{verdict}">{verdict}</h1><p>{_safe(MEANS.get(report["verdict"], ""))}</p>',
        _list(report["reasons"]),
        f'<p class="mono">{_safe(subject(report))}</p>',
        f'<p class="dim">{_safe(window["start"])} to {_safe(window["end"])}</p>',
        _section("What happened when", f'<div class="wide">{timeline(report)}</div>'),
        _section("What it started", _sums(report["totals"])),
        _section("Replies on connections that others made", _sums(report["accepted"])),
        _section("What left, or tried to", _flows(leaving(report))),
        _section("By phase of the runtime", _phases(report)),
        _section("Requests", _requests(report)),
        _section("Open before", _list(socket_text(sock) for sock in report["preexisting_sockets"])),
        _section(
            "Not seen by any hook",
            _list(f"{one['comm']} ({one['pid']}) {one['what']}" for one in report["unseen"]),
        ),
        _section("Evidence", _evidence(report)),
        _section("Limits", _list(report["limits"])),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def _list(texts: Iterable[object]) -> str:
    items = "".join(f"<li>{_safe(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], numbers: int) -> str:
    """Give a table whose last `numbers` columns are numbers."""
    if not rows:
        return ""
    first = len(head) - numbers

    def cell(tag: str, at: int, text: object) -> str:
        mark = ' class="n"' if at >= first else ""
        return f"<{tag}{mark}>{_safe(text)}</{tag}>"

    lines = [("th", head), *(("td", row) for row in rows[:_ROWS])]
    body = "".join(
        f"<tr>{''.join(cell(tag, at, text) for at, text in enumerate(cells))}</tr>" for tag, cells in lines
    )
    more = f'<p class="dim">and {len(rows) - _ROWS} more</p>' if len(rows) > _ROWS else ""
    return f'<div class="wide"><table>{body}</table></div>{more}'


def _sums(totals: dict[str, dict[str, int]]) -> str:
    rows = [
        (
            *(scope, sums["attempts"], sums["denied"]),
            *(size(sums["bytes_out"]), size(sums["payload_out"]), size(sums["bytes_in"])),
        )
        for scope, sums in totals.items()
        if any(sums.values())
    ]
    return _table(("scope", "attempts", "denied", "out", "data", "in"), rows, 5)


def _flows(flows: list[Json]) -> str:
    return _table(FLOW_HEAD, [flow_cells(flow) for flow in flows], 5)


def _phases(report: Json) -> str:
    return _table(("phase", "requests", "left"), [(*row[:2], size(row[2])) for row in windows(report)], 2)


def _requests(report: Json) -> str:
    rows = [
        (
            *(one["start"], one["end"] or "open", one["phase"], one["path"] or "?"),
            *(size(one["bytes_out_at_most"]), size(one["payload_out_at_most"])),
        )
        for one in report["requests"]
    ]
    return _table(("from", "to", "phase", "path", "left meanwhile, at most", "of it data"), rows, 2)


def _evidence(report: Json) -> str:
    hooks = [
        (
            hook["hook"],
            "yes" if hook["attached"] and hook["link_id"] == hook["link_id_before"] else "NO",
            hook["link_id_before"],
            hook["link_id"],
        )
        for hook in report["hooks"]
    ]
    lost = [f"{reason}: {count}" for reason, count in report["losses"].items() if count] or [
        "nothing was lost"
    ]
    tool = report["tool"]
    made = ", compiled on this host by bcc" if tool.get("engine") == "bcc" else ""
    told = [
        *lost,
        f"tattle {tool['version']}, files {tool['files_sha256']}",
        f"programs in the kernel {tool['object_sha256']}{made}",
        f"kernel {report['kernel']}",
        f"report {report['sha256']}",
        f"signed by {report['signature']['fingerprint']}" if report["signature"] else "not signed",
    ]
    return _table(("hook", "attached throughout", "link before", "link after"), hooks, 2) + _list(told)


class _Scale:
    """Moments to the x of the drawing."""

    def __init__(self, window: Json) -> None:
        self._start = _seconds(window["start"])
        self.span = max(_seconds(window["end"]) - self._start, 1e-6)

    def share(self, stamp: str) -> float:
        return min(max((_seconds(stamp) - self._start) / self.span, 0.0), 1.0)

    def x(self, share: float) -> float:
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def at(self, stamp: str) -> float:
        return self.x(self.share(stamp))


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def timeline(report: Json) -> str:
    """Draw requests, bytes and attempts over the window."""
    scale = _Scale(report["window"])
    bars, lanes = _bars(report["requests"], scale, report["window"]["end"])
    top = 18 + lanes * _LANE
    columns, most = _columns(report["timeline"]["samples"], scale, top + _HIGH)
    ticks = top + _HIGH + 22
    height = ticks + 34
    drawn = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Requests, bytes and attempts in time">',
        _label("requests", 14) if lanes else "",
        *bars,
        _label(f"left: {size(most)}", top + 12) if most else _label("left: 0 B", top + 12),
        *columns,
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{top + _HIGH}" y2="{top + _HIGH}"/>',
        _label("attempts", ticks + 6),
        *_ticks(report, scale, ticks),
        f'<text x="{_LEFT}" y="{height - 4}">0 s</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{height - 4}" text-anchor="end">{scale.span:.1f} s</text>',
        "</svg>",
    ]
    return "".join(drawn)


def _label(text: str, y: float) -> str:
    return f'<text x="0" y="{y}">{_safe(text)}</text>'


def _bars(requests: list[Json], scale: _Scale, end: str) -> tuple[list[str], int]:
    """Draw requests side by side where they overlap, in so many lanes."""
    free: list[float] = []
    drawn = []
    for one in requests[: _ROWS * 5]:
        begin, over = scale.at(one["start"]), scale.at(one["end"] or end)
        lane = next((at for at, until in enumerate(free) if until <= begin), len(free))
        if lane >= _LANES_MAX:
            lane = _LANES_MAX - 1
        if lane == len(free):
            free.append(over)
        free[lane] = max(free[lane], over)
        title = _safe(f"{one['phase']} {one['path'] or ''} {one['start']}")
        drawn.append(
            f'<rect class="bar {_safe(one["phase"])}" x="{begin:.1f}" y="{6 + lane * _LANE}" '
            f'width="{max(over - begin, 1.5):.1f}" height="{_LANE - 3}"><title>{title}</title></rect>'
        )
    return drawn, len(free)


def _columns(samples: list[list[Any]], scale: _Scale, floor: float) -> tuple[list[str], int]:
    """Draw what left in each part of the window, and say how much in all."""
    sums = [0] * _COLUMNS
    for (_, before, *_), (stamp, after, *_) in pairwise(samples):
        sums[min(int(scale.share(stamp) * _COLUMNS), _COLUMNS - 1)] += max(after - before, 0)
    most = max(sums, default=0)
    width = (_WIDTH - _LEFT - _RIGHT) / _COLUMNS
    drawn = [
        f'<rect class="column" x="{scale.x(at / _COLUMNS):.1f}" y="{floor - _tall(count, most):.1f}" '
        f'width="{width - 1:.1f}" height="{_tall(count, most):.1f}"><title>{size(count)}</title></rect>'
        for at, count in enumerate(sums)
        if count
    ]
    return drawn, sum(sums)


def _tall(count: int, most: int) -> float:
    return max(_HIGH * count / most, 2.0)


def _ticks(report: Json, scale: _Scale, y: float) -> list[str]:
    """Draw attempts; those of flows that were denied, and denials, in the colour of a stop."""
    denied = {_peer(flow) for flow in report["flows"] if flow["denied"] and not flow["bytes_out"]}
    drawn = []
    for mark in report["timeline"]["marks"]:
        stopped = mark["event"] == "deny" or _peer(mark) in denied
        if mark["scope"] in ("loopback", "host") and not stopped:
            continue
        kind = "deny" if stopped else "attempt"
        x = scale.at(mark["ts"])
        what = "denied" if stopped else mark["event"]
        title = _safe(f"{mark['ts']} {what} {who(mark)} {endpoint(mark, addresses=True)}")
        place = f'x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}"'
        drawn.append(f'<line class="{kind}" {place}><title>{title}</title></line>')
    return drawn


def _peer(one: Json) -> tuple[object, ...]:
    return one["pid"], one["remote_addr"], one["remote_port"], one["proto"]
