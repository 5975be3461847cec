"""A process beside the daemon that kept the privileges of the start, for the page's switch alone.

The daemon answers the network, and keeps only CAP_BPF. Blocking a target takes more: other users' sockets
are duplicated to be cut (CAP_SYS_PTRACE), hooks and maps are found by their pins (CAP_SYS_ADMIN). Hence this
process is forked before the daemon drops its privileges. It has one socket, to the daemon, and does what
exporters/http/requests.py can say: audit, block, lift, unblock a target, add a rule to its policy, look for
runtimes. It opens no port and no file that a request names, and ends with the daemon.

Each request is done in a child of its own: what it takes is given back, and what breaks, breaks alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from exporters.http.requests import Done, read_request
from tracer.errors import HostError, TattleError
from tracer.host import capabilities
from tracer.host.capabilities import HELPING
from tracer.host.syscalls import die_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporters.http.requests import Request

    Perform = Callable[[Request], Done]

log = structlog.get_logger("tattle")

PATIENCE_S: Final = 30.0
_MESSAGE_MAX: Final = 1 << 17
_BROKEN: Final = Done(error="that failed for a reason of its own", hint="the daemon's log has it")


class Helper:
    """The daemon's end. Start it before privileges are dropped and before any thread."""

    def __init__(self, perform: Perform) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _live(theirs, perform, parent)
        theirs.close()
        ours.settimeout(PATIENCE_S)
        self._socket = ours

    def ask(self, request: Request) -> Done:
        """Have a request done, and return how that went; raises HostError where nothing answers."""
        with self._lock:
            try:
                self._socket.sendall(msgspec.json.encode(request))
                answer = self._socket.recv(_MESSAGE_MAX)
            except OSError as error:
                self._socket.close()  # a late answer must not be taken for the next one's
                raise _gone(error.strerror or str(error)) from None
        if not answer:
            raise _gone("it has ended")
        return msgspec.json.decode(answer, type=Done)

    def close(self) -> None:
        """Hang up, upon which it ends."""
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _gone(reason: str) -> HostError:
    return HostError(
        f"the daemon's helper does not answer: {reason}",
        "restart tattle; meanwhile: sudo tattle block TARGET",
    )


def _live(door: socket.socket, perform: Perform, parent: int) -> None:
    """Serve until the daemon hangs up. Never returns."""
    code = 1
    try:
        die_with(parent)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a terminal's; the daemon decides what they mean
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        capabilities.drop(HELPING & capabilities.effective())
        while request := door.recv(_MESSAGE_MAX):
            _in_child(door, perform, request)
        code = 0
    except OSError:  # the daemon was killed
        code = 0
    finally:
        os._exit(code)


def _in_child(door: socket.socket, perform: Perform, request: bytes) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            door.send(msgspec.json.encode(_done(perform, request)))
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        door.send(msgspec.json.encode(_BROKEN))


def _done(perform: Perform, request: bytes) -> Done:
    """Do a request; what goes wrong is the answer."""
    try:
        return perform(read_request(request))
    except TattleError as error:
        return Done(error=error.message, hint=error.hint)
    except Exception as error:  # said where it can be mended; the page must not wait in vain
        log.exception("a request of the page failed", error=repr(error))
        return _BROKEN
