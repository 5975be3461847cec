"""A block by a key of `tattle watch`."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from tests.kernel.test_cli_host import read_until
from tests.support.cgroups import Jail
from tests.support.daemon import PATIENCE, ROOT, Tattle, command, until
from tests.support.network import PEER4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab


@pytest.fixture
def cell(lab: Lab, scratch: Path) -> Iterator[Jail]:
    """Audit a cgroup by a daemon of one's own."""
    daemon = Tattle(scratch)
    try:
        daemon.start()
        made = Jail(lab, daemon)
        made.block("--audit", "--allow", "192.0.2.7")
        yield made
    finally:
        daemon.remove()


def test_the_selected_target_is_blocked_after_a_yes(lab: Lab, cell: Jail) -> None:
    """Its rules stay; without the yes nothing changes."""
    port = lab.peer.serve("tcp")
    lab.run("tcp.py", op="transfer", up=100, host=PEER4, port=port, cgroup=cell.inside)
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        command("watch", cell.selector, "--instance", cell.daemon.instance),
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "30"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
    )
    os.close(terminal)
    try:
        read_until(controller, rb"q quit")
        read_until(controller, rb"%s:%d" % (PEER4.encode(), port))
        os.write(controller, b"jb")
        read_until(controller, rb"deny all that it starts\? y/n")
        os.write(controller, b"n")
        read_until(controller, rb"nothing was blocked")
        assert cell.state()["mode"] == "audit"
        os.write(controller, b"by")
        until(lambda: [] if cell.state()["mode"] == "enforce" else [str(cell.state())])
        assert (cell.state()["active"], "192.0.2.7" in str(cell.state()["rules"])) == (True, True)
        os.write(controller, b"q")
        read_until(controller, rb"\x1b\[\?1049l")
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
