"""`tattle report`: what was seen, read from what the daemon keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.cli.command import TARGETS, TIMES, Command, add_json, add_times, known, print_json
from tracer.errors import UsageError
from tracer.history.query import look_back
from tracer.history.report import document

if TYPE_CHECKING:
    import argparse

_KEYS: Final = """\
JSON (--json): target, since, until, last_look, complete (no gap, and nothing lost), gaps (start, end,
reason: stopped, killed, pruned or before; counted: by the kernel meanwhile, and told since), losses,
known_since (when the running daemon began to know all that matches; null: it does not), same_program
(attempts, bytes_out, last_seen: of what the program started while it was in no target, or null), totals
(by scope, of what was started here), accepted (likewise, of what others started), flows: target, comm,
parent_comm, exe, uid, cgroup, unit, container, proto, direction, remote_addr, remote_port, name,
name_source, purpose, unexpected, scope, phase, attempts, established, denied, would_deny, bytes_out,
bytes_in, packets_out, packets_in, first_seen, last_seen as in tattle flows, each for the hour that begins
at hour. CSV (--csv) has the flows, one a row; a cell that a spreadsheet would take for a formula begins
with an apostrophe."""


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", metavar="TARGET", help="only this one; default: everything")
    add_times(parser, "24h")
    parser.add_argument("--until", metavar="TIME", help="up to when; default: now")
    parser.add_argument("--csv", action="store_true", help="CSV, a row for each process, place and hour")
    add_json(parser)


def _report(arguments: argparse.Namespace) -> int:

    if arguments.json and arguments.csv:
        raise UsageError("--json and --csv exclude each other", "give one of them")
    past = look_back(arguments.instance, arguments.target, arguments.since, arguments.until)
    found = document(known(past))
    if arguments.json:
        return print_json(found)
    from exporters.terminal import history

    history.print_csv(found) if arguments.csv else history.print_history(found)
    return 0


COMMAND: Final = Command(
    "report",
    "what did it do last night: from the history that the daemon keeps",
    "Say what was sent by hour, process, destination and phase, what was denied, and what was not seen "
    f"because tattle was off or lost it. The daemon need not run. {TARGETS}\n\n{TIMES}\n\n{_KEYS}",
    "  sudo tattle report\n  sudo tattle report ollama --since '2026-01-31 22:00' --until 2026-02-01\n"
    "  sudo tattle report --since 7d --csv > week.csv\n  sudo tattle report ollama --json | jq .totals",
    _add_report,
    _report,
)
