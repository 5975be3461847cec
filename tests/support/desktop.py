"""A desktop session of an ordinary user: a display, a session bus, and a real notification server (dunst)."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from typing import TYPE_CHECKING, Any

from tests.support.daemon import PATIENCE, ROOT, command, until

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

USER = pwd.getpwnam("nobody")
ADM = 4
"""Debian's base-passwd gives the group adm this number."""
DUNST = """\
[global]
markup = full
history_length = 100
[urgency_normal]
format = "NORMAL %s\\n%b"
[urgency_critical]
format = "CRITICAL %s\\n%b"
"""

BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:dir={folder}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""
"""A session bus that starts no server by itself."""


class Session:
    """A user's desktop: a display, a session bus and a notification server, all of the user's own."""

    def __init__(self, stack: ExitStack, scratch: Path) -> None:
        self._stack, self.scratch = stack, scratch
        self.errors = scratch / "notify.stderr"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(scratch), "XDG_RUNTIME_DIR": str(scratch)}
        _, display = self._started("Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24")
        self.env["DISPLAY"] = f":{display}"
        config = scratch / "bus.conf"
        config.write_text(BUS.format(folder=scratch))
        bus = ("dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1")
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

    def seen(self) -> list[str]:
        """Return urgency and text of all that dunst has shown, as it shows it, and close it."""
        self.ctl("close-all")
        found = json.loads(self.ctl("history") or '{"data": [[]]}')["data"][0]
        return [one["message"]["data"] for one in found]

    def notify(self, instance: str, *groups: int) -> subprocess.Popen[bytes]:
        """Start `tattle notify` as the user."""
        with self.errors.open("ab") as errors:
            return self.spawn(*command("notify", "--instance", instance), groups=groups, stderr=errors)

    def shows(self, *wanted: str) -> str:
        """Wait for a notice with all these words; return its urgency and its text."""
        found: list[str] = []

        def missing() -> list[str]:
            found[:] = [one for one in self.seen() if all(word in one for word in wanted)]
            said = self.errors.read_text() if self.errors.exists() else ""
            return [] if found else [f"no notice with {wanted}: {self.seen()}; {said}"]

        until(missing)
        return found[0]
