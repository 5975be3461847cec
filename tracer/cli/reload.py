"""`tattle reload`: the daemon reads its configuration again, and says whether it has taken it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from tracer.cli.command import Command
from tracer.daemon import control

if TYPE_CHECKING:
    import argparse


def reload(instance: str) -> int:
    """Have the daemon read its configuration again; raises what it refuses, or DaemonAbsent."""
    for _ in control.ask(control.socket_path(instance), {"ask": "reload"}, instance):
        pass
    sys.stdout.write("configuration read again\n")
    return 0


def _nothing_more(_: argparse.ArgumentParser) -> None:
    """Declare no options of its own."""


COMMAND: Final = Command(
    "reload",
    "have the daemon read its configuration again",
    "Have the running daemon read its configuration again and put it in force, as SIGHUP does, and wait "
    "until that is done. A configuration that is refused changes nothing and ends this with its error: "
    "systemctl reload tattle fails then.",
    "  sudo tattle reload",
    _nothing_more,
    lambda arguments: reload(arguments.instance),
)
