"""The report of `prove` on one page of a terminal, and what `verify` says of one.

A report that is verified comes from a stranger: every text of it is escaped here, whoever wrote it.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from exporters.terminal.views import SCOPE_STYLES, WIDE, Terminal, endpoint, size, table, who
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

Json = dict[str, Any]

VERDICT_STYLES: Final = {"no-egress": "bold green", "egress": "bold red", "incomplete": "bold yellow"}
MEANS: Final = {
    "no-egress": "nothing left this host",
    "egress": "something left this host",
    "incomplete": "not all was seen: no promise can be made",
}
_ROWS: Final = 15
_LIMITS: Final = 4
_NUMBERS: Final = frozenset({"attempts", "denied", "out", "data", "in", "requests", "left"})


def _console(*, to_stderr: bool) -> Console:
    plain = Terminal(highlight=False, markup=False, emoji=False, stderr=to_stderr)
    if plain.is_terminal and not os.environ.get("NO_COLOR"):
        return plain
    return Terminal(highlight=False, markup=False, emoji=False, stderr=to_stderr, width=WIDE, no_color=True)


def print_proof(report: Json, *, to_stderr: bool) -> None:
    """Print the page."""
    out = _console(to_stderr=to_stderr)
    verdict = report["verdict"]
    out.print(Text.assemble((verdict, VERDICT_STYLES[verdict]), f": {MEANS[verdict]}"))
    for reason in report["reasons"]:
        out.print(Text(f"  - {reason}"))
    out.print(Text(f"\n{subject(report)}, {report['window']['start']} to {report['window']['end']}"))
    _print_totals(out, report)
    _print_flows(out, report)
    _print_phases(out, report)
    for sock in report["preexisting_sockets"][:_ROWS]:
        out.print(Text(f"open before: {socket_text(sock)}"))
    _print_evidence(out, report)


def subject(report: Json) -> str:
    """Say what the report is about."""
    if report["command"] is None:
        return f"target {report['target']}"
    command = shlex.join(report["command"])
    ended = "still running" if report["exit_code"] is None else f"exit code {report['exit_code']}"
    about = f"{command} ({ended})"
    return about if report["target"] is None else f"target {report['target']}, while {about}"


def socket_text(sock: Json) -> str:
    """Give a socket that was there before in one line."""
    local = f"{sock['local_addr']}:{sock['local_port']}"
    to = f" - {sock['remote_addr']}:{sock['remote_port']} {sock['scope']}" if sock["remote_addr"] else ""
    return f"{sock['comm']} ({sock['pid']}) {sock['proto']} {sock['state']} {local}{to}"


def _print_totals(out: Console, report: Json) -> None:
    made = table(("started here", "attempts", "denied", "out", "data", "in"), _NUMBERS)
    for scope, sums in report["totals"].items():
        if any(sums.values()):
            numbers = [*(str(sums[name]) for name in ("attempts", "denied")), *_sizes(sums)]
            made.add_row(Text(scope, style=SCOPE_STYLES.get(scope, "")), *map(Text, numbers))
    for scope, sums in report["accepted"].items():
        if any(sums.values()):
            made.add_row(Text(f"accepted, {scope}"), *map(Text, ("-", "-", *_sizes(sums))))
    if made.row_count:
        out.print(made)


def _sizes(sums: Json) -> list[str]:
    return [size(sums[name]) for name in ("bytes_out", "payload_out", "bytes_in")]


def leaving(report: Json) -> list[Json]:
    """Give the flows that count, those with most bytes first."""
    counted = {"internet", "lan", "multicast", "unknown"}
    flows = [
        flow
        for flow in report["flows"]
        if flow["direction"] == "out" and (flow["scope"] in counted or flow["remote_port"] in (53, 853))
    ]
    return sorted(flows, key=lambda flow: (-flow["bytes_out"], -flow["denied"]))


FLOW_HEAD: Final = (
    *("process", "destination", "proto", "scope", "phase", "purpose"),
    *("attempts", "denied", "out", "data", "in"),
)


def flow_cells(flow: Json) -> tuple[str, ...]:
    """Give a flow under `FLOW_HEAD`; what the runtime's profile does not know stands out."""
    return (
        who(flow),
        endpoint(flow, addresses=True),
        flow["proto"] or "?",
        flow["scope"],
        flow["phase"],
        "UNEXPECTED" if flow["unexpected"] else flow["purpose"] or "",
        str(flow["attempts"]),
        str(flow["denied"]),
        size(flow["bytes_out"]),
        size(flow["payload_out"]),
        size(flow["bytes_in"]),
    )


def _print_flows(out: Console, report: Json) -> None:
    flows = leaving(report)
    if not flows:
        return
    made = table(FLOW_HEAD, _NUMBERS)
    for flow in flows[:_ROWS]:
        made.add_row(*map(Text, flow_cells(flow)))
    out.print(made)
    if len(flows) > _ROWS:
        out.print(Text(f"and {len(flows) - _ROWS} more; the report has them all"))


def windows(report: Json) -> list[tuple[str, int, int]]:
    """Give by phase how many requests there were, and how many bytes left in that phase."""
    counts: dict[str, int] = dict.fromkeys(report["phases"], 0)
    for request in report["requests"]:
        counts[request["phase"]] = counts.get(request["phase"], 0) + 1
    sums = {phase: one["bytes_out"] for phase, one in report["phases"].items()}
    return [(phase, count, sums.get(phase, 0)) for phase, count in sorted(counts.items())]


def _print_phases(out: Console, report: Json) -> None:
    if not report["requests"]:
        return
    made = table(("phase", "requests", "left"), _NUMBERS)
    for phase, count, left in windows(report):
        made.add_row(Text(phase), Text(str(count)), Text(size(left)))
    out.print(made)


def _print_evidence(out: Console, report: Json) -> None:
    held = sum(hook["attached"] and hook["link_id"] == hook["link_id_before"] for hook in report["hooks"])
    lost = sum(report["losses"].values())
    said = f"{held} of {len(report['hooks'])} hooks attached throughout, {lost or 'nothing'} lost"
    signature = report["signature"]
    signed = f"signed by {signature['fingerprint']}" if signature else "not signed"
    out.print(
        Text(
            f"\n{said}; kernel {report['kernel']}, tattle {report['tool']['version']}, {signed}", style="dim"
        )
    )
    for limit in report["limits"][:_LIMITS]:
        out.print(Text(f"limit: {limit}", style="dim"))
    more = len(report["limits"]) - _LIMITS
    if more > 0:
        out.print(
            Text(
                f"and {more} limits that hold everywhere: the report and tattle doctor have them", style="dim"
            )
        )


def print_check(report: Json, wrong: Sequence[str], signer: str | None, *, known: bool) -> None:
    """Print what `verify` found."""
    out = _console(to_stderr=False)
    if wrong:
        out.print(Text("NOT GOOD", style="bold red"))
        for one in wrong:
            out.print(Text(f"  - {escape(one)}"))
        return
    verdict = escape(report["verdict"])
    out.print(
        Text.assemble(("consistent", "bold green"), ": the verdict ", (verdict, VERDICT_STYLES[verdict]))
    )
    window = " to ".join(escape(report["window"][name]) for name in ("start", "end"))
    out.print(Text(f"  {escape(subject(report))}, {window}"))
    if signer is None:
        out.print(Text("  not signed: whoever changed it with care would not be found out", style="yellow"))
    elif known:
        out.print(Text(f"  signed by {signer}, which --trust names", style="green"))
    else:
        out.print(
            Text(f"  signed by an unknown key, {signer}: compare it with what its owner says", style="yellow")
        )
