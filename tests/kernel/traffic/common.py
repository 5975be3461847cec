"""What all traffic programs share: the request that opens a transfer, and the result they print.

A program gets one JSON object as its argument and prints one JSON object when it ends. It goes on after
EPERM, so that the same program is the judge of a blocker: what it tried, what was refused, what left.
"""

import errno
import json
import os
import select
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

REQUEST = struct.Struct("!4sIQQ")
"""Opens each transfer, 24 bytes: magic, flags, bytes the caller will send, bytes it asks for."""
MAGIC = b"LAB1"
CHUNK = 65_536
DATAGRAM = 1_400

PAUSE_FIRST = 1
"""The server waits before it reads, so that the caller's send buffer is full when it goes away."""
CLOSE_FIRST = 2
"""The server closes as soon as its bytes are out; otherwise it waits for the caller's end of file."""


class Outcome:
    """Counts what a program tried and what became of it."""

    def __init__(self) -> None:
        self.calls = 0
        self.sent = 0
        self.received = 0
        self.errors: Counter[str] = Counter()
        self.last: str | None = None
        self.extra: dict[str, Any] = {}

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - any call
        """Call, count, and return None (the errno's name noted) where the kernel refuses."""
        self.calls += 1
        try:
            return function(*arguments)
        except OSError as error:
            self.note(error)
            return None

    def note(self, error: OSError) -> None:
        """Remember an error by the name of its errno."""
        if isinstance(error, TimeoutError) and error.errno is None:
            self.last = "ETIMEDOUT"
        else:
            self.last = errno.errorcode.get(error.errno or 0, str(error))
        self.errors[self.last] += 1

    def report(self) -> dict[str, Any]:
        """Return the result as it is printed."""
        return {
            "calls": self.calls,
            "errno": self.last,
            "errors": dict(self.errors),
            "bytes_sent": self.sent,
            "bytes_received": self.received,
            "pid": os.getpid(),
            **self.extra,
        }


def request(up: int = 0, down: int = 0, flags: int = 0) -> bytes:
    """Return the 24 bytes that open a transfer."""
    return REQUEST.pack(MAGIC, flags, up, down)


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of a literal address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def await_go() -> str:
    """Say that all is prepared and wait for the test's word."""
    print(json.dumps({"ready": os.getpid()}), flush=True)
    return sys.stdin.readline().strip()


def pause(seconds: float) -> None:
    """Let time pass where the scenario itself is about time."""
    select.select([], [], [], seconds)


def main(operations: dict[str, Callable[[Outcome, dict[str, Any]], None]]) -> None:
    """Run the operation that the argument names and print its result."""
    arguments = json.loads(sys.argv[1])
    outcome = Outcome()
    operations[arguments["op"]](outcome, arguments)
    print(json.dumps(outcome.report()), flush=True)
