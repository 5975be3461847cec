"""The one process beside the daemon that keeps privileges of the start.

The daemon answers the network, and keeps only CAP_BPF. To end connections takes more (other users' sockets
are duplicated: CAP_SYS_PTRACE), and so does a change of policy (hooks and maps are found by their pins:
CAP_SYS_ADMIN). Hence this process is forked before the daemon drops its privileges. It has one socket, to
the daemon, and does what worker.py can say: tasks, in which nothing that the daemon says decides what is cut,
read or marked; and, if the page may switch, what exporters/http/requests.py can say. It opens no port and no
file that a request names, and ends with the daemon.

It does nothing itself, so that it stays small: tasks are done by a worker that ends when it is idle, each
request in a child of its own. What that takes is given back, and what breaks, breaks alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import structlog

from exporters.http.requests import Done
from tracer.daemon.worker import MESSAGE_MAX, Answer, Duties, Order, Task, Worker, broken
from tracer.errors import HostError, TattleError
from tracer.host import capabilities
from tracer.host.capabilities import HELPING
from tracer.host.syscalls import die_with

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporters.http.requests import Request

log = structlog.get_logger("tattle")

PATIENCE_S: Final = 30.0
"""How long a request of the page may take."""
_IDLE_S: Final = 30.0
"""How long a worker is kept that is told nothing."""


class Helper:
    """The daemon's end. Make it before privileges are dropped and before any thread starts."""

    def __init__(self, duties: Duties, not_for_it: Iterable[int] = ()) -> None:
        """`not_for_it` are descriptors that no process beside the daemon may hold."""
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            _live(_Server(theirs, duties), parent, not_for_it)
        theirs.close()
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def go(self, task: Task) -> None:
        """Have it done soon. Where the other process is gone, the kernel half denies, and ends by itself."""
        with contextlib.suppress(OSError):
            self._socket.send(msgspec.json.encode(Order(0, task)))

    def ask(self, what: Task | Request, patience_s: float = PATIENCE_S) -> Done:
        """Have it done, and return how that went; raises HostError where no answer comes in time."""
        with self._lock:
            number = next(self._numbers)
            try:
                self._socket.send(msgspec.json.encode(Order(number, what)))
                return self._answer(number, time.monotonic() + patience_s)
            except (OSError, ValueError) as error:  # ValueError: closed meanwhile
                raise _gone(str(error)) from None

    def _answer(self, number: int, deadline: float) -> Done:
        """Wait for the answer of this number; those that came too late are thrown away."""
        while select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            message = self._socket.recv(MESSAGE_MAX)
            if not message:
                raise _gone("it has ended")
            answer = msgspec.json.decode(message, type=Answer)
            if answer.number == number:
                return answer.done
        raise _gone("timed out")

    def close(self) -> None:
        """Hang up, upon which it ends: after the request that it has at hand, if there is one."""
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _gone(reason: str) -> HostError:
    return HostError(
        f"the daemon's helper does not answer: {reason}",
        "restart tattle; meanwhile: sudo tattle block TARGET",
    )


def _live(server: _Server, parent: int, not_for_it: Iterable[int]) -> NoReturn:
    """Serve until the daemon hangs up."""
    code = 1
    try:
        die_with(parent)
        for fd in not_for_it:
            os.close(fd)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the daemon decides what they mean
        capabilities.drop(HELPING & capabilities.effective())
        server.serve()
        code = 0
    except Exception as error:  # the daemon's log must have it; `ask` says that it has ended
        log.exception("the daemon's helper failed", error=repr(error))
    finally:
        os._exit(code)


class _Server:
    """Reads orders, and has each done: tasks by the worker, a request by a child."""

    def __init__(self, door: socket.socket, duties: Duties) -> None:
        self._door = door
        self._duties = duties
        self._worker: Worker | None = None
        self._asked: dict[int, int] = {}
        """By process: the number of the answer that it owes."""
        self._ended: dict[int, int] = {}
        """By the descriptor that is readable when it has ended (pidfd_open(2)): the process."""

    def serve(self) -> None:
        """Serve until the daemon hangs up, and what it has asked for is done."""
        while order := self._next():
            try:
                self._give(order)
            except OSError as error:
                log.error("a process could not be made", error=str(error))  # noqa: TRY400 - no traceback
                self._say(msgspec.json.decode(order, type=Order).number, broken())
        if self._worker is not None:
            os.kill(self._worker.pid, signal.SIGKILL)
        for fd in tuple(self._ended):
            self._reap(fd)

    def _next(self) -> bytes:
        """Return the next order; nothing where the daemon is gone."""
        while True:
            waited = [self._door.fileno(), *self._ended]
            ready = select.select(waited, [], [], _IDLE_S if self._worker else None)[0]
            for fd in self._ended.keys() & set(ready):
                self._reap(fd)
            if self._door.fileno() in ready:
                with contextlib.suppress(ConnectionError):
                    return self._door.recv(MESSAGE_MAX)
                return b""
            if not ready and self._worker is not None:
                self._worker.close()
                self._worker = None

    def _give(self, message: bytes) -> None:
        order = msgspec.json.decode(message, type=Order)
        if not isinstance(order.what, Task):
            self._follow(self._child(order.number, order.what), order.number)
            return
        if self._worker is None or not self._worker.go(message):
            self._worker = Worker(self._duties.tasks, self._door)
            self._follow(self._worker.pid, 0)
            self._worker.go(message)
        self._asked[self._worker.pid] = order.number

    def _child(self, number: int, asked: Request) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self._say(number, _done(self._duties, asked))
            finally:
                os._exit(0)
        return pid

    def _follow(self, pid: int, number: int) -> None:
        self._asked[pid] = number
        self._ended[os.pidfd_open(pid)] = pid

    def _reap(self, fd: int) -> None:
        """Take leave of a process that ends; where it has failed, say so to whom waits for its answer."""
        pid = self._ended.pop(fd)
        os.close(fd)
        _, status = os.waitpid(pid, 0)
        if self._worker is not None and self._worker.pid == pid:
            self._worker.close()
            self._worker = None
        number = self._asked.pop(pid)
        if status and number:
            self._say(number, broken())

    def _say(self, number: int, done: Done) -> None:
        with contextlib.suppress(OSError):  # the daemon has gone meanwhile
            self._door.send(msgspec.json.encode(Answer(number, done)))


def _done(duties: Duties, asked: Request) -> Done:
    """Do a request; what goes wrong is the answer."""
    if duties.perform is None:
        return broken()
    try:
        return duties.perform(asked)
    except TattleError as error:
        return Done(error=error.message, hint=error.hint)
    except Exception as error:  # said where it can be mended; the page must not wait in vain
        log.exception("a request of the page failed", error=repr(error))
        return broken()
