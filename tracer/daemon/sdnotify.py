"""Word to systemd, in the protocol of sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket
import time


def notify(*lines: str) -> None:
    """Send states such as READY=1; without a service manager nothing happens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    name = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(lines).encode(), name)
    except OSError:  # a manager that went away must not take us along
        return


def reloading() -> None:
    """Say that a reload begins: Type=notify-reload wants the monotonic time with it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_interval() -> float:
    """Give the seconds after which to say WATCHDOG=1 (half of what is allowed); 0: nobody waits for it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    allowed = os.environ.get("WATCHDOG_USEC", "")
    return int(allowed) / 2e6 if allowed.isdecimal() else 0.0
