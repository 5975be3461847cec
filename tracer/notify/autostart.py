"""The autostart entry: Desktop Application Autostart Specification 0.5.

The package's entry in /etc/xdg/autostart is hidden, which is off. A user's own of the same name takes its
place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tracer.errors import HostError

NAME: Final = "tattle-notify.desktop"
_SPECIAL: Final = frozenset(" \t\n\"'\\><~|&;$*?#()`")  # Desktop Entry Specification, the Exec key


def entry(command: str, *, hidden: bool) -> str:
    """Return the entry that starts `command notify` with the session; a hidden one is not started."""
    return (
        "[Desktop Entry]\n"
        "Type=Application\n"
        "Name=tattle\n"
        "Comment=Tells when a local model talks to somebody it should not\n"
        f"TryExec={command}\n"
        f"Exec={_quoted(command)} notify\n"
        "Icon=security-medium\n"
        "Terminal=false\n"
        "NoDisplay=true\n"
        f"Hidden={'true' if hidden else 'false'}\n"
    )


def _quoted(path: str) -> str:
    """Quote a path as the Exec key wants it."""
    text = path.replace("%", "%%")
    if not _SPECIAL & set(text):
        return text
    for char in '\\"`$':
        text = text.replace(char, f"\\{char}")
    return '"' + text.replace("\\", "\\\\") + '"'


def place() -> Path:
    """Return where the user's own entry is."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "autostart" / NAME


def enable(command: str) -> Path:
    """Have `command notify` started with each session of this user; returns the entry."""
    path = place()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(entry(command, hidden=False), encoding="utf-8")
    except OSError as error:
        raise _refused(path, error) from None
    return path


def disable() -> Path:
    """Have it started no more, also where the administrator has it started for everyone."""
    path = place()
    try:
        path.unlink(missing_ok=True)
        if Path("/etc/xdg/autostart", NAME).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(entry("tattle", hidden=True), encoding="utf-8")
    except OSError as error:
        raise _refused(path, error) from None
    return path


def _refused(path: Path, error: OSError) -> HostError:
    return HostError(f"{path} cannot be written: {error.strerror}", "see whether your home can be written")
