"""`tattle notify` with a real notification server (dunst) on a virtual display, as an ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.stage import EVIL_HOST, WATCHED, Stage, put_up
from tests.support.daemon import PATIENCE, ROOT, command, until

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = pwd.getpwnam("nobody")
ADM = 4
"""Debian's base-passwd gives the group adm this number."""
DUNST = '[global]\nformat = "%s\\n%b"\nmarkup = full\nhistory_length = 100\n[urgency_critical]\ntimeout = 0\n'


class Session:
    """A user's desktop: a display, a session bus and a notification server, all of the user's own."""

    def __init__(self, stack: ExitStack, scratch: Path) -> None:
        self._stack, self.scratch = stack, scratch
        self.errors = scratch / "notify.stderr"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(scratch), "XDG_RUNTIME_DIR": str(scratch)}
        _, display = self._started("Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24")
        self.env["DISPLAY"] = f":{display}"
        bus = ("dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address=1")
        self.bus, self.env["DBUS_SESSION_BUS_ADDRESS"] = self._started(*bus)
        self.server = self.serve()

    def spawn(self, *words: str, groups: tuple[int, ...] = (), **more: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - of Popen
        """Start a program of the user's; it ends with the session."""
        usual: dict[str, Any] = {"env": self.env, "cwd": ROOT, "stderr": subprocess.DEVNULL}
        who: dict[str, Any] = {"user": USER.pw_uid, "group": USER.pw_gid, "extra_groups": groups}
        process = subprocess.Popen(words, **{**usual, **who, **more})
        self._stack.callback(process.wait, PATIENCE)
        self._stack.callback(process.kill)
        return process

    def _started(self, *words: str) -> tuple[subprocess.Popen[bytes], str]:
        """Start what says on standard output where it is; return both."""
        process = self.spawn(*words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        self._stack.callback(process.stdout.close)
        return process, process.stdout.readline().decode().strip()

    def serve(self) -> subprocess.Popen[bytes]:
        """Start dunst and wait until it answers."""
        config = self.scratch / "dunstrc"
        config.write_text(DUNST)
        config.chmod(0o644)
        server = self.spawn("dunst", "-conf", str(config), stdout=subprocess.DEVNULL)
        until(lambda: [] if self.ctl("is-paused") == "false\n" else ["dunst does not answer"])
        return server

    def ctl(self, *words: str) -> str:
        """Ask dunst."""
        done = subprocess.run(
            ("dunstctl", *words),
            env=self.env,
            user=USER.pw_uid,
            group=USER.pw_gid,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def seen(self) -> list[tuple[str, str]]:
        """Return urgency and text of all that dunst has shown, as it shows it, and close it."""
        self.ctl("close-all")
        found = json.loads(self.ctl("history") or '{"data": [[]]}')["data"][0]
        return [(one["urgency"]["data"], one["message"]["data"]) for one in found]

    def notify(self, instance: str, *groups: int) -> subprocess.Popen[bytes]:
        """Start `tattle notify` as the user."""
        with self.errors.open("ab") as errors:
            return self.spawn(*command("notify", "--instance", instance), groups=groups, stderr=errors)

    def shows(self, *wanted: str) -> tuple[str, str]:
        """Wait for a notice with all these words; return its urgency and text."""
        found: list[tuple[str, str]] = []

        def missing() -> list[str]:
            found[:] = [one for one in self.seen() if all(word in one[1] for word in wanted)]
            said = self.errors.read_text() if self.errors.exists() else ""
            return [] if found else [f"no notice with {wanted}: {self.seen()}; {said}"]

        until(missing)
        return found[0]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Put up runtimes that talk."""
    with put_up(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Log the user in."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.chown(tmp_path, USER.pw_uid, USER.pw_gid)
    with ExitStack() as stack:
        yield Session(stack, tmp_path)


def heard(stage: Stage) -> list[str]:
    """Complain while no desktop is connected to the daemon."""
    text = Path("/proc/net/unix").read_text()
    path = f"/run/{stage.tattle.instance}/notices.sock"
    connected = [line for line in text.splitlines() if line.endswith(path) and line.split()[5] == "03"]
    return [] if connected else ["no desktop is connected"]


def watch(stage: Stage, session: Session) -> subprocess.Popen[bytes]:
    """Start `tattle notify` as a member of adm, and wait until it hears the daemon."""
    process = session.notify(stage.tattle.instance, ADM)
    until(lambda: heard(stage))
    return process


PHONING = [["telemetry.example", 2_000, 100], [EVIL_HOST, 10, 10], ["ollama.com", 6_000, 400]]


def test_a_desktop_is_told_what_a_model_should_not_do(stage: Stage, session: Session) -> None:
    """New unexpected destinations come as one notice, data during a prompt with its purpose; names are text.

    Each comes with the command that acts. It takes no root.
    """
    watch(stage, session)
    stage.answer("/api/chat", hosts=PHONING)
    urgency, text = session.shows("2 unexpected destinations")
    assert urgency == "NORMAL"
    assert "telemetry.example: not in its profile during a prompt" in text
    assert EVIL_HOST in text.replace("&lt;", "<").replace("&gt;", ">")
    assert f"Stop it: sudo tattle block {WATCHED} --instance {stage.tattle.instance}" in text
    _, text = session.shows("sent data while it answered a prompt", "ollama.com: ")
    assert "unknown" not in text


def test_it_lives_through_restarts(stage: Stage, session: Session) -> None:
    """Of the daemon and of the notification server; what was told of is not told of again."""
    process = watch(stage, session)
    stage.answer("/api/chat", hosts=PHONING[:1])
    session.shows("an unexpected destination")
    session.server.terminate()
    session.server.wait(PATIENCE)
    assert stage.tattle.stop() == 0
    stage.tattle.start()
    until(lambda: heard(stage))
    session.serve()
    stage.answer("/api/chat", hosts=PHONING[:2])
    _, text = session.shows("an unexpected destination")
    assert "telemetry" not in text
    assert process.poll() is None


def test_a_block_that_is_not_in_force_is_told_until_it_is(stage: Stage, session: Session) -> None:
    """As a critical notice that names it, with the command that mends it; then that all is well."""
    watch(stage, session)
    link = next(hook["link_id"] for hook in stage.tattle.ask("status")["hooks"] if hook["hook"] == "egress")
    subprocess.run(["bpftool", "link", "detach", "id", str(link)], check=True)
    urgency, text = session.shows("A block is not in force", "hook egress is not attached")
    assert urgency == "CRITICAL"
    assert f"sudo tattle restore --instance {stage.tattle.instance}" in text


def test_it_ends_with_the_session(stage: Stage, session: Session) -> None:
    """When the bus goes, with 0."""
    process = watch(stage, session)
    session.bus.terminate()
    assert process.wait(PATIENCE) == 0


def test_others_are_told_why_not(stage: Stage, session: Session) -> None:
    """A user in none of the groups, and one without a session: one line, a hint, exit code 3."""
    stranger = session.notify(stage.tattle.instance)
    assert stranger.wait(PATIENCE) == 3
    said = session.errors.read_text()
    assert "tells members of these groups only: adm, sudo, wheel, systemd-journal" in said
    assert "hint: " in said
    session.errors.write_text("")
    del session.env["DBUS_SESSION_BUS_ADDRESS"]
    assert session.notify(stage.tattle.instance, ADM).wait(PATIENCE) == 3
    first, hint = session.errors.read_text().splitlines()
    assert "no session bus" in first
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
