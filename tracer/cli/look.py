"""`tattle watch`, `flows`, `status` and `doctor`: they look, and change nothing."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that the daemon stays small

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.cli.command import TARGETS, Command, add_engine, add_json, add_targets, print_json, seconds

if TYPE_CHECKING:
    import argparse


def _add_flows(parser: argparse.ArgumentParser) -> None:
    add_targets(parser)
    parser.add_argument("--addresses", action="store_true", help="the addresses of named destinations, too")


def _add_watch(parser: argparse.ArgumentParser) -> None:
    _add_flows(parser)
    parser.add_argument("--for", dest="seconds", type=seconds, metavar="SECONDS", help="end after so long")
    add_engine(parser)


def _watch(arguments: argparse.Namespace) -> int:
    from tracer.cli.watch import WatchOptions, watch

    options = WatchOptions(
        arguments.instance,
        arguments.targets,
        as_json=arguments.json,
        seconds=arguments.seconds,
        addresses=arguments.addresses,
        engine=arguments.engine,
    )
    return watch(options)


def _flows(arguments: argparse.Namespace) -> int:
    from tracer.daemon import control

    answer = control.flows(control.socket_path(arguments.instance), arguments.targets, arguments.instance)
    if arguments.json:
        return print_json(answer)
    from exporters.terminal.flows import print_flows

    print_flows(answer, addresses=arguments.addresses, whole=bool(arguments.targets))
    return 0


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--enforced",
        action="append",
        default=[],
        metavar="TARGET",
        help="exit with 1 unless its policy is in force; may be repeated",
    )
    add_json(parser)


def _status(arguments: argparse.Namespace) -> int:
    from tracer.cli.status import require_enforced, status

    document = status(arguments.instance)
    if arguments.enforced:
        require_enforced(document, arguments.enforced)
    if arguments.json:
        return print_json(document)
    from exporters.terminal.views import print_status

    print_status(document, arguments.instance)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from tracer.cli.doctor import examine

    report = examine(arguments.instance)
    if arguments.json:
        print_json(report.document())
    else:
        from exporters.terminal.views import print_report

        print_report(report.document())
    return report.exit_code


NAMES: Final = """\
A destination goes by its name where one is known: a|b could be either, and a name with a question mark was
told to another process, or its time is over."""

COMMANDS: Final = (
    Command(
        "watch",
        "what this host's programs send now, live",
        "A live table of who sends how much to whom, newest first; one line an event where output is no "
        f"terminal. Works with a running daemon and without one. {NAMES} {TARGETS}",
        "  sudo tattle watch\n  sudo tattle watch ollama\n  sudo tattle watch --json --for 10 > events.jsonl",
        _add_watch,
        _watch,
    ),
    Command(
        "flows",
        "what the running daemon has counted so far",
        f"A line for each process, destination and phase, with attempts and bytes. {NAMES} {TARGETS}",
        "  sudo tattle flows --addresses\n  sudo tattle flows unit:ollama.service --json",
        _add_flows,
        _flows,
    ),
    Command(
        "status",
        "what is attached, lost and full, as the kernel says",
        "Ask the kernel what of this instance is attached, how full its tables are, and what was lost. With "
        "--enforced: for scripts and units that must not start what is not blocked.",
        "  sudo tattle status\n  sudo tattle status --json | jq .losses\n"
        "  sudo tattle status --enforced ollama",
        _add_status,
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
