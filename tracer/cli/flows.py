"""`tattle flows`: what the running daemon has counted so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.cli.command import NAMES, TARGETS, Command, add_flows, print_json
from tracer.daemon import control

if TYPE_CHECKING:
    import argparse


def _flows(arguments: argparse.Namespace) -> int:
    answer = control.flows(control.socket_path(arguments.instance), arguments.targets, arguments.instance)
    if arguments.json:
        return print_json(answer)
    from exporters.terminal.flows import print_flows

    print_flows(answer, addresses=arguments.addresses, whole=bool(arguments.targets))
    return 0


COMMAND: Final = Command(
    "flows",
    "what the running daemon has counted so far",
    f"A line for each process, destination and phase, with attempts and bytes. {NAMES} {TARGETS}",
    "  sudo tattle flows --addresses\n  sudo tattle flows unit:ollama.service --json",
    add_flows,
    _flows,
)
