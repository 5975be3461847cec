"""`tattle report` and `tattle suggest`: what was seen, read from what the daemon keeps."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that the daemon stays small

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.cli.command import TARGETS, Command, add_json, print_json

if TYPE_CHECKING:
    import argparse

_TIMES: Final = """\
A time is how long ago (90m, 24h, 7d), or a day or time: '2026-01-31 22:00' is this host's, and
2026-01-31T22:00:00Z in UTC. History is kept by the hour: one of which a part is asked for counts whole."""
_KEYS: Final = """\
JSON (--json): target, since, until, last_look, complete (no gap, and nothing lost), gaps (start, end,
reason: stopped, killed, pruned or before; counted: by the kernel meanwhile, and told since), losses, totals
(by scope, of what was started here), accepted (likewise, of what others started), flows: target, comm,
parent_comm, exe, uid, cgroup, unit, container, proto, direction, remote_addr, remote_port, name,
name_source, purpose, unexpected, scope, phase, attempts, established, denied, would_deny, bytes_out,
bytes_in, packets_out, packets_in, first_seen, last_seen as in tattle flows, each for the hour that begins
at hour. CSV (--csv) has the flows, one a row; a cell that a spreadsheet would take for a formula begins
with an apostrophe."""


def _add_times(parser: argparse.ArgumentParser, since: str) -> None:
    parser.add_argument(
        "--since", default=since, metavar="TIME", help=f"from when on, or how long ago; default: {since}"
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", metavar="TARGET", help="only this one; default: everything")
    _add_times(parser, "24h")
    parser.add_argument("--until", metavar="TIME", help="up to when; default: now")
    parser.add_argument("--csv", action="store_true", help="CSV, a row for each process, place and hour")
    add_json(parser)


def _report(arguments: argparse.Namespace) -> int:
    from tracer.errors import UsageError
    from tracer.history.query import look_back
    from tracer.history.report import document

    if arguments.json and arguments.csv:
        raise UsageError("--json and --csv exclude each other", "give one of them")
    found = document(look_back(arguments.instance, arguments.target, arguments.since, arguments.until))
    if arguments.json:
        return print_json(found)
    from exporters.terminal import history as history_view

    history_view.print_csv(found) if arguments.csv else history_view.print_history(found)
    return 0


def _add_suggest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET")
    _add_times(parser, "7d")
    add_json(parser)


def _suggest(arguments: argparse.Namespace) -> int:
    from tracer.history.query import asked, look_back
    from tracer.history.suggest import document
    from tracer.names.hosts_file import HostsFile

    past = look_back(arguments.instance, arguments.target, arguments.since, None)
    found = document(past, asked(arguments.target), HostsFile())
    if arguments.json:
        return print_json(found)
    from exporters.terminal.history import print_suggestion

    print_suggestion(found)
    return 0


COMMANDS: Final = (
    Command(
        "report",
        "what did it do last night: from the history that the daemon keeps",
        "Say what was sent by hour, process, destination and phase, what was denied, and what was not seen "
        f"because tattle was off or lost it. The daemon need not run. {TARGETS}\n\n{_TIMES}\n\n{_KEYS}",
        "  sudo tattle report\n  sudo tattle report ollama --since '2026-01-31 22:00' --until 2026-02-01\n"
        "  sudo tattle report --since 7d --csv > week.csv\n  sudo tattle report ollama --json | jq .totals",
        _add_report,
        _report,
    ),
    Command(
        "suggest",
        "the smallest set of rules that allows what was seen, and the commands to use it",
        "Make rules of what a target was seen starting: by name where a rule by name can open it, else by "
        "address. What its profile does not name, and what was denied, is shown and left out. Then the "
        f"command that audits these rules, and the one that enforces them. Nothing is changed. {TARGETS}\n\n"
        f"{_TIMES}\n\n"
        "JSON (--json): target, since, until, last_look, complete, gaps, losses as of tattle report; "
        "profile; rules, unexpected, lookups and denied, each with rule, purpose, unexpected, note, names, "
        "processes, phases, attempts, established, would_deny, bytes_out, bytes_in, denied, first_seen, "
        "last_seen; cautions; commands (audit, look, enforce).",
        "  sudo tattle suggest ollama\n  sudo tattle suggest ollama --since 30d\n"
        "  sudo tattle suggest ollama --json | jq -r .commands.audit",
        _add_suggest,
        _suggest,
    ),
)
