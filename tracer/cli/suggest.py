"""`tattle suggest`: the smallest set of rules that allows what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.cli.command import TARGETS, TIMES, Command, add_json, add_times, known, print_json
from tracer.history.query import asked, look_back
from tracer.history.suggest import document
from tracer.host.hosts_file import HostsFile

if TYPE_CHECKING:
    import argparse


def _add_suggest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET")
    add_times(parser, "7d")
    add_json(parser)


def _suggest(arguments: argparse.Namespace) -> int:

    past = known(look_back(arguments.instance, arguments.target, arguments.since, None))
    found = document(past, asked(arguments.target), HostsFile())
    if arguments.json:
        return print_json(found)
    from exporters.terminal.history import print_suggestion

    print_suggestion(found)
    return 0


COMMAND: Final = Command(
    "suggest",
    "the smallest set of rules that allows what was seen, and the commands to use it",
    "Make rules of what a target was seen starting: by name where a rule by name can open it, else by "
    "address. What its profile does not name, and what was denied, is shown and left out. Then the "
    f"command that audits these rules, and the one that enforces them. Nothing is changed. {TARGETS}\n\n"
    f"{TIMES}\n\n"
    "JSON (--json): target, since, until, last_look, complete, gaps, losses, known_since and same_program as "
    "of tattle report; "
    "profile; rules, unexpected, lookups and denied, each with rule, purpose, unexpected, note, names, "
    "processes, phases, attempts, established, would_deny, bytes_out, bytes_in, denied, first_seen, "
    "last_seen; keep (purposes of the profile that let pass what some rules are for, only while such a "
    "request is in flight, and the command); cautions; commands (audit, look, enforce).",
    "  sudo tattle suggest ollama\n  sudo tattle suggest ollama --since 30d\n"
    "  sudo tattle suggest ollama --json | jq -r .commands.audit",
    _add_suggest,
    _suggest,
)
