"""`tattle watch`, `flows`, `status` and `doctor`: they look, and change nothing."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that the daemon stays small

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.commands.base import TARGETS, Command, add_json, add_targets, print_json

if TYPE_CHECKING:
    import argparse


def _add_watch(parser: argparse.ArgumentParser) -> None:
    add_targets(parser)
    parser.add_argument("--for", dest="seconds", type=_seconds, metavar="SECONDS", help="end after so long")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _watch(arguments: argparse.Namespace) -> int:
    from tracer.watch import watch

    return watch(arguments.instance, arguments.targets, as_json=arguments.json, seconds=arguments.seconds)


def _flows(arguments: argparse.Namespace) -> int:
    from tracer import control

    answer = control.flows(control.socket_path(arguments.instance), arguments.targets, arguments.instance)
    if arguments.json:
        return print_json(answer)
    from exporters.views import print_flows

    print_flows(answer)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from tracer.status import status

    document = status(arguments.instance)
    if arguments.json:
        return print_json(document)
    from exporters.views import print_status

    print_status(document, arguments.instance)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from tracer.doctor import examine

    report = examine(arguments.instance)
    if arguments.json:
        print_json(report.document())
    else:
        from exporters.views import print_report

        print_report(report.document())
    return report.exit_code


COMMANDS: Final = (
    Command(
        "watch",
        "what this host's programs send now, live",
        "A live table of who sends how much to whom, newest first; one line an event where output is no "
        f"terminal. Works with a running daemon and without one. {TARGETS}",
        "  sudo tattle watch\n  sudo tattle watch ollama\n  sudo tattle watch --json --for 10 > events.jsonl",
        _add_watch,
        _watch,
    ),
    Command(
        "flows",
        "what the running daemon has counted so far",
        f"Every process, destination, protocol and direction with attempts and bytes. {TARGETS}",
        "  sudo tattle flows\n  sudo tattle flows unit:ollama.service --json",
        add_targets,
        _flows,
    ),
    Command(
        "status",
        "what is attached, lost and full, as the kernel says",
        "Ask the kernel what of this instance is attached, how full its tables are, and what was lost.",
        "  sudo tattle status\n  sudo tattle status --json | jq .losses",
        add_json,
        _status,
    ),
    Command(
        "doctor",
        "can this host run it; if not, what to change",
        "Try everything that tattle needs, the programs themselves included, and say how to mend what fails. "
        "Exits with 3 where something does.",
        "  sudo tattle doctor",
        add_json,
        _doctor,
    ),
)
