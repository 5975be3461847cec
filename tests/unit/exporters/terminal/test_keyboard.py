"""The keys of the live table, typed on a real terminal in a real shell."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 140
FIRST, OTHER = rb"\x1b\[\?1049l", rb"\x1b\[\?1049h"
"""What has a terminal show its first, or its other screen: xterm's control sequences."""
HOME = rb"\x1b\[H"


class Shell:
    """A shell with job control on a terminal, which leaves the terminal's mode alone: others mend it."""

    def __init__(self) -> None:
        self.controller, terminal = pty.openpty()
        self.resize(30)
        self.process = subprocess.Popen(
            ["dash", "-i"],
            cwd=ROOT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "PS1": "READY> "},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )
        os.close(terminal)
        self.reads(rb"READY> ")

    def resize(self, height: int) -> None:
        """Have the terminal be so high."""
        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", height, WIDTH, 0, 0))

    def types(self, keys: str) -> None:
        """Type."""
        os.write(self.controller, keys.encode())

    def reads(self, pattern: bytes) -> bytes:
        """Read until something is on the terminal; return all that was read."""
        text, deadline = b"", time.monotonic() + PATIENCE
        while not re.search(pattern, re.sub(rb"\x1b\[[0-9;]*m", b"", text)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.controller], [], [], left)[0]:
                raise AssertionError(f"{pattern!r} is not in {text[-2000:]!r}")
            text += os.read(self.controller, 1 << 16)
        return text

    def is_as_before(self) -> None:
        """Find the terminal in its usual mode: lines, with echo."""
        self.types("stty -a; echo CO''DE=$?\n")
        text = self.reads(rb"CODE=0")
        assert b" icanon" in text
        assert b" echo " in text

    def close(self) -> None:
        """Hang up."""
        os.close(self.controller)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def shell() -> Iterator[Shell]:
    """Open a terminal."""
    made = Shell()
    try:
        yield made
    finally:
        made.close()


def watching(shell: Shell) -> None:
    """Start the live table on it."""
    shell.types(f"{shlex.quote(sys.executable)} -m tests.support.live_table\n")
    shell.reads(OTHER)
    shell.reads(rb"q quit")


def test_keys_choose_and_the_terminal_is_as_it_was(shell: Shell) -> None:
    """Pause, order, filter; Ctrl-Z and fg; another size; q. Nothing that is typed is echoed."""
    watching(shell)
    shell.types(" ")
    shell.reads(rb"newest, paused")
    shell.types(" s")
    shell.reads(rb"\[sent\]")
    shell.types("/zzz\r")
    shell.reads(rb"filter 'zzz'")
    shell.resize(20)
    shell.reads(HOME + rb"(?:[^\n]*\n){19}[^\n]*" + HOME)
    shell.types("\x1a")
    shell.reads(FIRST)
    shell.is_as_before()
    shell.types("fg\n")
    shell.reads(OTHER)
    shell.reads(rb"filter 'zzz'")
    shell.types("q")
    shell.reads(FIRST + rb"[\s\S]*READY> ")
    shell.is_as_before()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(shell: Shell, number: signal.Signals) -> None:
    """Whichever ends it."""
    watching(shell)
    children = subprocess.run(
        ["pgrep", "-P", str(shell.process.pid)], capture_output=True, text=True, check=True
    )
    os.kill(int(children.stdout), number)
    shell.reads(FIRST + rb"[\s\S]*READY> ")
    shell.is_as_before()
