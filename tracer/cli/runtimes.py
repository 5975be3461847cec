"""`tattle targets`: the model runtimes of this host and their privacy switches."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that the daemon stays small

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.cli.command import Command, add_json, print_json

if TYPE_CHECKING:
    import argparse

_TEXT: Final = """\
Find the model runtimes that run or are installed here, and show how each was found, where its API listens,
what its privacy switches are set to, and, if a daemon runs, whom it contacts and why: a destination that
its profile does not name is UNEXPECTED, and one that a switch should have stopped is told in words.

Of a process's environment only the switches that its profile names are read and shown. A runtime that tells
its settings itself (Ollama: GET /api/status) is asked, on loopback only.

JSON (--json): since (of the daemon's counts; null: no daemon) and targets, each with runtime, title,
running, how (unit, container, session, process, "installed: FILE"), cgroup, unit, container, image, pids,
others (processes in its cgroup that are not its own), api (address, port, source), switches (name, setting,
stops, private: whether it holds; places: where, value, private), contacts (name, purpose, unexpected,
connections, denied, bytes_out, bytes_in, first_seen, last_seen: of processes that run now), despite (lines:
what is done although a switch is set), profile (file, checked)."""


def _targets(arguments: argparse.Namespace) -> int:
    from tracer.cli.targets import survey

    document = survey(arguments.instance)
    if arguments.json:
        return print_json(document)
    from exporters.terminal.targets import print_targets

    print_targets(document)
    return 0


COMMANDS: Final = (
    Command(
        "targets",
        "the model runtimes of this host, their switches, and what they do all the same",
        _TEXT,
        "  sudo tattle targets\n  sudo tattle targets --json | jq '.targets[].despite'",
        add_json,
        _targets,
    ),
)
