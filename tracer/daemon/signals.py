"""Signals as bytes on a socket, so that the loop waits for them together with all else."""

from __future__ import annotations

import signal
import socket
from typing import Final


class Signals:
    """Signals as bytes on a socket, so that the loop waits for them together with all else."""

    HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self.receiver.settimeout(0)
        self._sender.settimeout(0)
        self._old_fd = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, lambda *_: None) for number in self.HANDLED}

    def take(self) -> bytes:
        """Give the numbers of the signals that came."""
        try:
            return self.receiver.recv(64)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Handle signals as before."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self.receiver.close()
        self._sender.close()
