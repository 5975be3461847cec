"""A process beside the daemon that ends connections, and keeps the privileges which that takes.

It is forked before the daemon gives its privileges up, and does three things when it is told to: end whatever
the policies that are kept deny now; look whom new containers of targets may ask for names; mark the processes
of targets that run already. Nothing that the daemon says decides what is cut, read or marked. The work itself
is done in a process of its own that ends when it has been idle for a while, since what it imports takes
10 MiB.
"""

from __future__ import annotations

import enum
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from tracer.errors import TattleError
from tracer.host import capabilities
from tracer.host.capabilities import HELPING
from tracer.host.syscalls import die_with

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger("tattle")

_IDLE_S: Final = 30
_PATIENCE_S: Final = 10
"""How long the start waits for the first cut."""
_DONE: Final = b"done"
_LOOKS: Final = (0.0, *(0.02,) * 25, *(0.05,) * 30, *(0.25,) * 20, 3.0)
"""Seconds before each look for resolvers, after something has appeared in a target: a container's files are
there when its engine has put them in place, and are needed when its program begins, milliseconds later."""


class Task(enum.Enum):
    """What it is told to do, as it is told."""

    CUT = b"cut"
    LOOK = b"look"
    MARK = b"mark"


Tasks = Mapping[Task, Callable[[], None]]
_WORD_MAX: Final = max(len(task.value) for task in Task)
_FAILED: Final = {
    Task.CUT: "not all denied connections were ended",
    Task.LOOK: "not all resolvers of containers were found",
    Task.MARK: "not all processes of targets that run already were found",
}


class Cutter:
    """The daemon's end: `go` has something done soon; `wait` waits for the first time."""

    def __init__(self, tasks: Tasks) -> None:
        """`tasks` are called in the other process."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            self._socket.close()
            _serve(theirs, tasks, parent)
        theirs.close()
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def go(self, task: Task = Task.CUT) -> None:
        """Have it done. Where the other process is gone, the kernel half still denies, and ends by itself."""
        with suppress(OSError):
            while self._socket.recv(len(_DONE)):  # answers that nobody waited for
                pass
        with suppress(OSError):
            self._socket.send(task.value)

    def wait(self) -> None:
        """Wait until it has been done."""
        if select.select([self._socket], [], [], _PATIENCE_S)[0]:
            self._socket.recv(len(_DONE))

    def close(self) -> None:
        """End the other process."""
        self._socket.close()
        with suppress(OSError):  # it was gone already
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _serve(told: socket.socket, tasks: Tasks, parent: int) -> NoReturn:
    """Wait for the daemon's word, and have the work done by a process that ends; never returns."""
    try:
        die_with(parent)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        server = os.getpid()
        capabilities.drop(HELPING & capabilities.effective())
        while select.select([told], [], [])[0]:
            worker = os.fork()
            if not worker:
                die_with(server)
                _work(told, tasks)
                os._exit(0)
            os.waitpid(worker, 0)
            if not _connected(told):
                break
    finally:
        os._exit(0)


def _work(told: socket.socket, tasks: Tasks) -> None:
    """Do what the daemon says, until it has said nothing for a while, or is gone."""
    looks: Iterator[float] = iter(())
    while True:
        pause = next(looks, None)
        if select.select([told], [], [], _IDLE_S if pause is None else pause)[0]:
            word = told.recv(_WORD_MAX)
            if not word:
                return
            if word == Task.LOOK.value:
                looks = iter(_LOOKS)
                continue
            _do(tasks, Task(word))
            with suppress(OSError):
                told.send(_DONE, socket.MSG_DONTWAIT)
        elif pause is None:
            return
        elif not _do(tasks, Task.LOOK):
            looks = iter(())


def _do(tasks: Tasks, task: Task) -> bool:
    try:
        tasks[task]()
    except (TattleError, OSError) as error:
        log.error(_FAILED[task], error=str(error))  # noqa: TRY400 - no traceback
        return False
    return True


def _connected(told: socket.socket) -> bool:
    try:
        return bool(told.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False
