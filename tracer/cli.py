"""The command line: what each command takes, and which function does it. Commands import what they need."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that the daemon stays small

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer import __version__
from tracer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

Subparsers = Any  # argparse keeps its class to itself, and wants one kind of parser only
_EXITS: Final = """\
exit codes:
  0  done
  1  finding
  2  usage or configuration
  3  the host cannot: not root, kernel, missing file, no daemon
  4  evidence incomplete"""
_FILES: Final = """\
files:
  /etc/tattle/tattle.toml    the configuration
  /run/NAME/control.sock     the daemon of instance NAME
  /var/lib/NAME/             its state
  /sys/fs/bpf/NAME/          its maps and links while they are in use"""
_FIRST_STEPS: Final = "  sudo tattle doctor\n  sudo tattle watch\n  sudo tattle run"
_TARGETS: Final = """\
A TARGET is a runtime's name (ollama), unit:NAME, cgroup:/PATH, pid:N or container:NAME."""


@dataclass(frozen=True)
class Command:
    """One command: `add` declares its options, `run` does it and returns the exit code."""

    name: str
    summary: str
    description: str
    examples: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: /etc/tattle/tattle.toml, if there is one"
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="of the metrics; default: 127.0.0.1:9753")
    parser.add_argument(
        "--target", action="append", default=[], metavar="TARGET", help="what to name; may be repeated"
    )
    parser.add_argument(
        "--log-file", metavar="FILE", help="events, one JSON object a line; - is standard output"
    )
    parser.add_argument(
        "--loopback", action="store_true", help="count loopback of all processes, not of targets only"
    )
    parser.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="HOOK",
        help="go on without this hook if it is refused",
    )
    parser.add_argument("--object", type=Path, metavar="FILE", help=argparse.SUPPRESS)


def _run(arguments: argparse.Namespace) -> int:
    from tracer.daemon import RunOptions, run

    options = RunOptions(
        instance=arguments.instance,
        config_file=arguments.config,
        listen=arguments.listen,
        log_file=arguments.log_file,
        targets=tuple(arguments.target),
        loopback=arguments.loopback,
        allow_missing=frozenset(arguments.allow_missing),
        object_path=arguments.object,
    )
    return run(options)


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="only these; default: everything")
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON instead of text for people")


def _add_watch(parser: argparse.ArgumentParser) -> None:
    _add_targets(parser)
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
        return _print_json(answer)
    from exporters.views import print_flows

    print_flows(answer)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from tracer.status import status

    document = status(arguments.instance)
    if arguments.json:
        return _print_json(document)
    from exporters.views import print_status

    print_status(document, arguments.instance)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from tracer.doctor import examine

    report = examine(arguments.instance)
    if arguments.json:
        _print_json(report.document())
    else:
        from exporters.views import print_report

        print_report(report.document())
    return report.exit_code


def _print_json(document: object) -> int:
    json.dump(document, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0


def _add_block(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET")
    for name, does in (("allow", "let this pass"), ("deny", "never let this pass: beats --allow")):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="RULE", help=f"{does}; may be repeated"
        )
    parser.add_argument(
        "--default", choices=("deny", "allow"), default="deny", help="for what no rule names; default: deny"
    )
    parser.add_argument("--audit", action="store_true", help="change nothing, count what would be denied")
    parser.add_argument(
        "--strict", action="store_true", help="deny the replies on connections that others made to it, too"
    )


def _block(arguments: argparse.Namespace) -> int:
    from tracer.block import block
    from tracer.policy import Mode, Policy

    policy = Policy(
        arguments.target,
        tuple(arguments.allow),
        tuple(arguments.deny),
        arguments.default == "allow",
        Mode.AUDIT if arguments.audit else Mode.ENFORCE,
        arguments.strict,
    )
    return block(arguments.instance, policy)


def _add_unblock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET")


def _unblock(arguments: argparse.Namespace) -> int:
    from tracer.block import unblock

    return unblock(arguments.instance, arguments.target)


_RULES: Final = """\
A RULE is a prefix or an address, 1.2.3.0/24 or [2001:db8::]/32, each with :443 or :443/tcp if only that port
is meant; or @loopback, @lan, @internet, @dns. Deny beats allow, allow beats the default. @dns is port 53 at
any address; no other scope lets it pass."""

# prove, report, suggest, verify and targets take their places here.
COMMANDS: Final = (
    Command(
        "run",
        "the daemon: watch this host, export metrics, write the event log",
        "Load the programs, attach them, and stay in the foreground until SIGINT or SIGTERM; then nothing is "
        "left attached, unless a target is blocked. SIGHUP reads the configuration again. Speaks to systemd "
        "(Type=notify).",
        "  sudo tattle run\n  sudo tattle run --target ollama --log-file /var/log/tattle/events.jsonl",
        _add_run,
        _run,
    ),
    Command(
        "watch",
        "what this host's programs send now, live",
        "A live table of who sends how much to whom, newest first; one line an event where output is no "
        f"terminal. Works with a running daemon and without one. {_TARGETS}",
        "  sudo tattle watch\n  sudo tattle watch ollama\n  sudo tattle watch --json --for 10 > events.jsonl",
        _add_watch,
        _watch,
    ),
    Command(
        "flows",
        "what the running daemon has counted so far",
        f"Every process, destination, protocol and direction with attempts and bytes. {_TARGETS}",
        "  sudo tattle flows\n  sudo tattle flows unit:ollama.service --json",
        _add_targets,
        _flows,
    ),
    Command(
        "block",
        "stop what a program starts, in the kernel, from now on",
        "Deny what the target starts: internet, LAN, multicast, every protocol, and DNS even to a resolver "
        "on this host, since names carry data out, too. Its own API keeps working: loopback, and replies to "
        "whoever connects to it. In force at once and for connections that are open; kept when tattle is "
        f"stopped, and over reboots (tattle.service), until tattle unblock.\n\n{_TARGETS}\n\n{_RULES}",
        "  sudo tattle watch ollama                              see what it does\n"
        "  sudo tattle block ollama --audit                      see what would be denied, nothing is\n"
        "  sudo tattle flows ollama                              what is it that it needs?\n"
        "  sudo tattle block ollama --allow 10.0.0.0/8:443/tcp   deny all but that\n"
        "  sudo tattle status                                    verify: active, says the kernel\n"
        "  sudo tattle unblock ollama",
        _add_block,
        _block,
    ),
    Command(
        "unblock",
        "lift what block has put in force",
        f"Take a target's policy away, from the kernel and from what is kept. {_TARGETS}",
        "  sudo tattle unblock ollama",
        _add_unblock,
        _unblock,
    ),
    Command(
        "status",
        "what is attached, lost and full, as the kernel says",
        "Ask the kernel what of this instance is attached, how full its tables are, and what was lost.",
        "  sudo tattle status\n  sudo tattle status --json | jq .losses",
        _add_json,
        _status,
    ),
    Command(
        "doctor",
        "can this host run it; if not, what to change",
        "Try everything that tattle needs, the programs themselves included, and say how to mend what fails. "
        "Exits with 3 where something does.",
        "  sudo tattle doctor",
        _add_json,
        _doctor,
    ),
)


class _Intermixed(argparse.ArgumentParser):
    """Lets options stand before, between and after the operands."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - as the base class
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False

    def error(self, message: str) -> Any:  # noqa: ANN401 - never returns
        """Report in tattle's own form."""
        raise UsageError(message, f"see {self.prog} --help")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:  # noqa: ANN401 - never returns
        """Report in tattle's own form."""
        raise UsageError(message, f"see {self.prog} --help")


def _formatter(*, pretty: bool) -> type[argparse.HelpFormatter]:
    """Give the formatter of help pages; the pretty one loads rich as soon as a parser is made."""
    if not pretty:
        return argparse.RawDescriptionHelpFormatter
    from rich_argparse import RawDescriptionRichHelpFormatter

    return RawDescriptionRichHelpFormatter


def build(*, pretty: bool = False) -> argparse.ArgumentParser:
    """Make the parser of the whole command line; `pretty` for help pages with colours."""
    formatter = _formatter(pretty=pretty)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--instance", metavar="NAME", default=argparse.SUPPRESS, help="default: tattle")
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="tracebacks and more log"
    )
    parser = _Parser(
        prog="tattle",
        description="Tells on programs that phone home: who on this host sends how much to whom.",
        epilog=f"examples:\n{_FIRST_STEPS}\n\n{_FILES}\n\n{_EXITS}",
        formatter_class=formatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"tattle {__version__}")
    commands: Subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", parser_class=_Intermixed
    )
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=f"examples:\n{command.examples}\n\n{_EXITS}",
            formatter_class=formatter,
            parents=[common],
        )
        command.add(one)
        one.set_defaults(run=command.run)
    return parser


def run(given: list[str]) -> int:
    """Parse and do; returns the exit code or raises TattleError."""
    parser = build(pretty=not given or bool({"-h", "--help"} & set(given)))
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    arguments = parser.parse_args(given)
    arguments.instance = getattr(arguments, "instance", "tattle")
    arguments.debug = getattr(arguments, "debug", False)
    logging.basicConfig(
        level=logging.DEBUG if arguments.debug else logging.INFO,
        format="tattle: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    if not hasattr(arguments, "run"):
        parser.print_help()
        return UsageError.exit_code
    code: int = arguments.run(arguments)
    return code
