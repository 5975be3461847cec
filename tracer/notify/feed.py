"""What the daemon tells desktops: JSON lines from its second socket, through its restarts."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from tracer.errors import HostError, TattleError
from tracer.host.cgroups import BPFFS, instance_paths
from tracer.model.jsonlines import decode, encode

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]
log = structlog.get_logger("tattle")

DOOR: Final = "notices.sock"  # beside the control socket
QUESTION: Final = {"ask": "notices"}
_FIRST_S: Final = 1.0  # until the next try after the daemon went; doubled each time
_LONGEST_S: Final = 60.0
_RECEIVE: Final = 1 << 16
_LINE_MAX: Final = 1 << 20


def door(instance: str) -> Path:
    """Return where the daemon of an instance tells desktops."""
    return instance_paths(instance, BPFFS).control.with_name(DOOR)


class Feed:
    """The daemon's lines; a daemon that ended is tried again, later each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self._buffer = b""
        self._pause = _FIRST_S
        self._again_at = 0.0
        self._is_said = False

    @property
    def sockets(self) -> list[socket.socket]:
        """What to wait for: none where the daemon is not there."""
        return [self._sock] if self._sock is not None else []

    def wait(self) -> float | None:
        """Return the seconds until the next try; None: it is connected."""
        return None if self._sock is not None else max(self._again_at - time.monotonic(), 0.0)

    def connect(self) -> None:
        """Connect if it is time; raises HostError where the socket may not be opened."""
        if self._sock is not None or time.monotonic() < self._again_at:
            return
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(self._path))
            sock.sendall(encode(QUESTION) + b"\n")
        except PermissionError as error:
            sock.close()
            raise HostError(
                f"{self._path} may not be opened: {error.strerror}", "see [notify] groups in tattle.toml"
            ) from None
        except OSError:
            sock.close()
            self._lost()
            return
        sock.settimeout(0)
        self._sock, self._buffer = sock, b""

    def read(self) -> list[Json]:
        """Return the events that have come; raises TattleError where the daemon refuses."""
        if self._sock is None:
            return []
        try:
            data = self._sock.recv(_RECEIVE)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data or len(self._buffer) > _LINE_MAX:
            self.close()
            self._lost()
            return []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [event for event in map(self._checked, lines) if "event" in event]

    def _checked(self, line: bytes) -> Json:
        found = decode(line)
        if "error" in found:
            error = TattleError(str(found["error"]), str(found["hint"]))
            error.exit_code = int(found["exit_code"])
            raise error
        self._pause = _FIRST_S
        if self._is_said:
            self._is_said = False
            log.info("the daemon is there again")
        return found

    def _lost(self) -> None:
        """Try again later; say it once."""
        if not self._is_said:
            self._is_said = True
            log.warning("no daemon to hear from, waiting for one", hint="sudo tattle run")
        self._again_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_S)

    def close(self) -> None:
        """Hang up."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
