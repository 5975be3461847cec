"""The command line: one parser of all commands; each command is a module beside this one."""

from __future__ import annotations

import argparse
import importlib
import os
from typing import TYPE_CHECKING, Any, Final

from tracer import __version__
from tracer.errors import UsageError
from tracer.log import FORMATS, TEXT, configure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracer.cli.command import Command

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
COMMANDS: Final = (
    "run",
    "watch",
    "flows",
    "report",
    "suggest",
    "block",
    "unblock",
    "restore",
    "prove",
    "verify",
    "targets",
    "status",
    "open",
    "notify",
    "reload",
    "doctor",
)
"""The commands in the order of the help page; each is a module of this package."""


def load(name: str) -> Command:
    """Load a command by its name."""
    found: Command = importlib.import_module(f"tracer.cli.{name}").COMMAND
    return found


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


def build(names: Sequence[str] = COMMANDS, *, pretty: bool = False) -> argparse.ArgumentParser:
    """Return the parser of these commands; `pretty` for help pages with colours."""
    formatter = _formatter(pretty=pretty)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--instance", metavar="NAME", default=argparse.SUPPRESS, help="default: tattle")
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="tracebacks and more log"
    )
    common.add_argument(
        "--log-format", choices=FORMATS, default=argparse.SUPPRESS, help="of what is logged; default: text"
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
    for known in map(load, names):
        one = commands.add_parser(
            known.name,
            help=known.summary,
            description=known.description,
            epilog=f"examples:\n{known.examples}\n\n{_EXITS}",
            formatter_class=formatter,
            parents=[common],
        )
        known.add(one)
        one.set_defaults(run=known.run)
    return parser


def split(given: list[str]) -> tuple[list[str], list[str]]:
    """Part our words from those of the command that is to be run: they stand behind the first --."""
    at = given.index("--") if "--" in given else len(given)
    return (given[:at], given[at + 1 :]) if {"prove", "block"} & {*given[:at]} else (given, [])


def parse(given: list[str]) -> argparse.Namespace:
    """Parse with the commands that are named; no other module is loaded, so the daemon stays small."""
    named = [name for name in COMMANDS if name in given]
    if named and not {"-h", "--help"} & set(given):
        try:
            return build(named).parse_args(given)
        except UsageError:  # asked again of the whole parser, whose error names all commands
            pass
    return build(pretty=True).parse_args(given)


def run(words: list[str]) -> int:
    """Parse and do; returns the exit code or raises TattleError."""
    given, command = split(words)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(build())
    arguments = parse(given)
    arguments.words = command
    arguments.instance = getattr(arguments, "instance", "tattle")
    arguments.debug = getattr(arguments, "debug", False)
    configure(getattr(arguments, "log_format", TEXT), debug=arguments.debug)
    if not hasattr(arguments, "run"):
        build(pretty=True).print_help()
        return UsageError.exit_code
    code: int = arguments.run(arguments)
    return code
