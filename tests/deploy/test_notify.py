"""`tattle notify` with a real notification server (dunst) on a virtual display, as an ordinary user."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PATIENCE, ROOT, until
from tests.support.desktop import ADM, USER, Session

if TYPE_CHECKING:
    from collections.abc import Iterator

EVIL = "<img/src=x/onerror=1>&.example"
ODD: dict[str, Any] = {"event": "connect", "target": "ollama", "direction": "out", "scope": "internet"}
ODD |= {"unexpected": True, "phase": "inference", "verdict": "allowed", "purpose": None}
CLOUD = {**ODD, "event": "established", "unexpected": False, "purpose": "runs cloud models"}


class Daemon:
    """A stand-in that speaks to desktops as the daemon does."""

    def __init__(self) -> None:
        self.instance = f"t{os.getpid()}-{secrets.token_hex(3)}"
        self.door = Path("/run", self.instance, "notices.sock")
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        """Start it, and wait until it listens."""
        words = [sys.executable, "-m", "tests.support.notices", str(self.door)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"
        return self.process

    def tell(self, *told: dict[str, Any]) -> None:
        """Have it tell these."""
        assert self.process.stdin is not None
        self.process.stdin.writelines(json.dumps(one) + "\n" for one in told)
        self.process.stdin.flush()

    def stop(self) -> None:
        """End it, once it has told all."""
        self.process.communicate(timeout=PATIENCE)

    def heard(self) -> list[str]:
        """Complain while no desktop is connected (3: SS_CONNECTED, include/uapi/linux/net.h)."""
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        ends = [words[5] for words in lines if words[-1] == str(self.door)]
        return [] if "03" in ends else [f"no desktop is connected: {ends}"]

    def close(self) -> None:
        """End it, and leave nothing."""
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.door.parent, ignore_errors=True)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Start what tells desktops."""
    made = Daemon()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Log the user in."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.chown(tmp_path, USER.pw_uid, USER.pw_gid)
    with ExitStack() as stack:
        yield Session(stack, tmp_path)


def watch(daemon: Daemon, session: Session) -> subprocess.Popen[bytes]:
    """Start `tattle notify` as a member of adm, and wait until it hears the daemon."""
    process = session.notify(daemon.instance, ADM)
    until(daemon.heard)
    return process


def test_a_desktop_is_told_what_a_model_should_not_do(daemon: Daemon, session: Session) -> None:
    """Unexpected destinations come as one notice, data during a prompt with its purpose; names are text.

    Each comes with the command that acts. It takes no root.
    """
    watch(daemon, session)
    daemon.tell(ODD | {"name": "telemetry.example"}, ODD | {"name": EVIL}, CLOUD | {"name": "ollama.com"})
    text = session.shows("NORMAL ollama contacted 2 unexpected destinations\n")
    assert "\ntelemetry.example: not in its profile during a prompt\n" in text
    assert "\n&lt;img/src=x/onerror=1&gt;&amp;.example: " in text
    assert text.endswith(f"\nStop it: sudo tattle block ollama --instance {daemon.instance}")
    text = session.shows("NORMAL ollama sent data while it answered a prompt\n")
    assert "\nollama.com: runs cloud models\n" in text


def test_it_lives_through_restarts(daemon: Daemon, session: Session) -> None:
    """Of the daemon and of the notification server: what came meanwhile is shown, and no word of it twice."""
    process = watch(daemon, session)
    daemon.tell(ODD | {"name": "telemetry.example"})
    session.shows("ollama contacted an unexpected destination")
    session.server.terminate()
    session.server.wait(PATIENCE)
    daemon.tell(ODD | {"name": "second.example", "target": "vllm"})
    daemon.stop()
    daemon.start()
    until(daemon.heard)
    daemon.tell(ODD | {"name": "telemetry.example"}, CLOUD | {"name": "ollama.com"})
    session.serve()
    session.shows("vllm contacted an unexpected destination", "second.example")
    session.shows("ollama sent data while it answered a prompt")
    assert not [text for text in session.seen() if "telemetry" in text]
    assert process.poll() is None


def test_a_block_that_is_not_in_force_is_told(daemon: Daemon, session: Session) -> None:
    """As a critical notice that names it, with the command that mends it."""
    watch(daemon, session)
    daemon.tell({"ill": ["the policy of ollama is not in force"]})
    text = session.shows("CRITICAL A block is not in force\nthe policy of ollama is not in force\n")
    assert text.endswith(f"\nPut it in force: sudo tattle restore --instance {daemon.instance}")


def test_it_ends_with_the_session(daemon: Daemon, session: Session) -> None:
    """When the bus goes, with 0."""
    process = watch(daemon, session)
    session.bus.terminate()
    assert process.wait(PATIENCE) == 0


def test_others_are_told_why_not(daemon: Daemon, session: Session) -> None:
    """A user in none of the groups, and one without a session: one line, a hint, exit code 3."""
    assert session.notify(daemon.instance).wait(PATIENCE) == 3
    said = session.errors.read_text()
    assert "tells members of these groups only: adm, sudo, wheel, systemd-journal" in said
    assert "to mend it: " in said
    session.errors.write_text("")
    del session.env["DBUS_SESSION_BUS_ADDRESS"]
    assert session.notify(daemon.instance, ADM).wait(PATIENCE) == 3
    error, hint = session.errors.read_text().splitlines()
    assert "no session bus" in error
    assert "desktop session" in hint


def test_it_is_started_with_the_session_once_enabled(session: Session) -> None:
    """Off until enabled; the entry is one that desktops accept, and starts this very program."""
    entry = session.scratch / ".config/autostart/tattle-notify.desktop"
    tattle = str(Path(sys.executable).with_name("tattle"))
    assert session.spawn(tattle, "notify", "--enable").wait(PATIENCE) == 0
    done = subprocess.run(["desktop-file-validate", entry], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"Exec={tattle} notify\n" in entry.read_text()
    assert session.spawn(tattle, "notify", "--disable").wait(PATIENCE) == 0
    assert not entry.exists()
