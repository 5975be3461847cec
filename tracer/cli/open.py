"""`tattle open`: a one-time link to the daemon's page, with the right to switch."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.cli.command import Command
from tracer.daemon import control
from tracer.errors import DaemonAbsent
from tracer.model.text import escape

if TYPE_CHECKING:
    import argparse

_UNSET: Final = 0xFFFFFFFF  # of an audit login id, proc_pid_loginuid(5)


def _user() -> int | None:
    """Return the id of the user who called sudo, or who logged in; None where nothing tells."""
    told = os.environ.get("SUDO_UID", "")
    if told.isascii() and told.isdecimal():
        return int(told)
    try:
        login = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if login == _UNSET else login


def _name(uid: int | None) -> str:
    if uid is None:
        return "root"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _add_open(_: argparse.ArgumentParser) -> None:
    """Declare nothing: the instance is enough."""


def _open(arguments: argparse.Namespace) -> int:
    uid = _user()
    question = {"ask": "open", "owner": _name(uid), "uid": uid}
    path = control.socket_path(arguments.instance)
    answer = next(control.ask(path, question, arguments.instance), None)
    if answer is None:
        raise DaemonAbsent(f"the daemon '{arguments.instance}' ended while it was asked", "see its log")
    bound = answer["uid"] is not None
    whose = f"a browser of {escape(_name(uid))}" if bound else "the browser that opens it first"
    minutes = answer["seconds"] // 60
    sys.stdout.write(f"{answer['link']}\n")
    sys.stderr.write(
        f"gives {whose} the right to switch; good once, for {minutes} minutes; show it to nobody\n"
    )
    return 0


COMMAND: Final = Command(
    "open",
    "a link to the page that may switch: block, allow, lift by a click",
    "Print a link to the running daemon's page. It works once, within ten minutes, and gives the browser "
    "that opens it the right to switch for twelve hours or until the daemon ends; where the page is on "
    "loopback, only a browser of the user who called sudo. Everybody else's page shows, and changes nothing. "
    "[web] control = false takes the ability away; on an address that the network reaches it is off unless "
    "control = true.",
    "  sudo tattle open",
    _add_open,
    _open,
)
