"""What the daemon has done by its helper, and the helper's worker, which does the tasks among it.

The worker is a process that ends when it has been told nothing for a while. What the tasks import takes
10 MiB and a part of a second: the one is given back, the other paid once for tasks that come soon after each
other.
"""

from __future__ import annotations

import enum
import os
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec
import structlog

from exporters.http.requests import Done, Request
from tracer.host.faults import SURVIVED
from tracer.host.syscalls import die_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

log = structlog.get_logger("tattle")

MESSAGE_MAX: Final = 1 << 17
"""Bytes of an order or an answer."""


class Task(enum.Enum):
    """What takes the privileges of the start, and is decided by what is kept, not by what the daemon says."""

    CUT = "cut"
    """End whatever connections the policies deny now."""
    LOOK = "look"
    """Look whom new containers of targets may ask for names, again and again for a few seconds."""
    MARK = "mark"
    """Mark the processes of targets that run already."""


_LOOKS: Final = (0.0, *(0.02,) * 25, *(0.05,) * 30, *(0.25,) * 20, 3.0)
"""Seconds before each look for resolvers, after something has appeared in a target: a container's files are
there when its engine has put them in place, and are needed when its program begins, milliseconds later."""
_FAILED: Final = {
    Task.CUT: "not all denied connections were ended",
    Task.LOOK: "not all resolvers of containers were found",
    Task.MARK: "not all processes of targets that run already were found",
}


class Order(msgspec.Struct, frozen=True, array_like=True):
    """One message to the helper: a task, or a request of the page's switch."""

    number: int
    """By which the answer is known; 0: none is wanted."""
    what: Task | Request


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """How it went."""

    number: int
    done: Done


class Duties(NamedTuple):
    """What does it; called in processes of the helper's own."""

    tasks: Mapping[Task, Callable[[], None]]
    perform: Callable[[Request], Done] | None = None
    """What the page's switch asks for; None: it may not switch."""


def broken() -> Done:
    """Return the answer to what has failed in a way that was not foreseen."""
    return Done(error="that failed for a reason of its own", hint="the daemon's log has it")


class Worker:
    """The helper's end."""

    def __init__(self, tasks: Mapping[Task, Callable[[], None]], door: socket.socket) -> None:
        """`door` is the daemon's, to be answered there; raises OSError where no process can be made."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        helper = os.getpid()
        try:
            self.pid = os.fork()
            if not self.pid:
                self._socket.close()
                _live(theirs, door, tasks, helper)
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def go(self, order: bytes) -> bool:
        """Have an order done; False: the process is gone."""
        try:
            self._socket.send(order)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Have the process end when it has done what it was told."""
        self._socket.close()


def _live(
    told: socket.socket, door: socket.socket, tasks: Mapping[Task, Callable[[], None]], helper: int
) -> NoReturn:
    code = 1
    try:
        die_with(helper)
        _work(told, door, tasks)
        code = 0
    except Exception as error:  # the helper says so to whom waits, and makes another worker
        log.exception("a task of the daemon failed", error=repr(error))
    finally:
        os._exit(code)


def _work(told: socket.socket, door: socket.socket, tasks: Mapping[Task, Callable[[], None]]) -> None:
    """Do what the helper says, until it hangs up."""
    looks: Iterator[float] = iter(())
    while True:
        pause = next(looks, None)
        if select.select([told], [], [], pause)[0]:
            message = told.recv(MESSAGE_MAX)
            if not message:
                return
            order = msgspec.json.decode(message, type=Order)
            assert isinstance(order.what, Task)
            if order.what is Task.LOOK:
                looks = iter(_LOOKS)
            else:
                _do(tasks, order.what)
            if order.number:
                with suppress(OSError):
                    door.send(msgspec.json.encode(Answer(order.number, Done())), socket.MSG_DONTWAIT)
        elif not _do(tasks, Task.LOOK):
            looks = iter(())


def _do(tasks: Mapping[Task, Callable[[], None]], task: Task) -> bool:
    try:
        tasks[task]()
    except SURVIVED as error:
        log.error(_FAILED[task], error=str(error))  # noqa: TRY400 - no traceback
        return False
    return True
