"""The process beside the daemon: it does what it is told, answers, and outlives what breaks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporters.http.requests import Done, Lock, Survey, Unlock
from tracer.daemon.helper import Helper
from tracer.daemon.worker import Duties, Task, broken
from tracer.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporters.http.requests import Request

PATIENCE_S = 30.0


class Book:
    """What was done, a line each, in a file: it is done in other processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "done"
        self.gate = folder / "gate"
        self.path.touch()

    def note(self, what: str) -> None:
        """Write that it was done, and by which process."""
        with self.path.open("a") as file:
            file.write(f"{what} {os.getpid()}\n")

    def wait_at_gate(self) -> None:
        """Wait until the test opens the gate."""
        until(self.gate.exists)

    def lines(self, what: str) -> list[int]:
        """Return the processes that did it, in their order."""
        return [int(line.split()[1]) for line in self.path.read_text().splitlines() if line.startswith(what)]


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """Return an empty one."""
    return Book(tmp_path)


@pytest.fixture
def helper(book: Book) -> Iterator[Helper]:
    """Yield one that writes into the book; a lock fails, an unlock waits, marking kills its process."""

    def perform(asked: Request) -> Done:
        book.note("perform")
        match asked:
            case Lock(target="unknown"):
                raise UsageError("no such target", "look")
            case Lock(target="defect"):
                raise RuntimeError
            case Lock():
                os.kill(os.getpid(), signal.SIGKILL)
            case Unlock():
                book.wait_at_gate()
        return Done("done")

    def mark() -> None:
        book.note("mark")
        os.kill(os.getpid(), signal.SIGKILL)

    tasks = {Task.CUT: lambda: book.note("cut"), Task.LOOK: lambda: book.note("look"), Task.MARK: mark}
    one = Helper(Duties(tasks, perform))
    yield one
    one.close()


def test_a_task_that_is_asked_for_is_done_when_the_answer_comes(helper: Helper, book: Book) -> None:
    """Tasks that come soon after each other are done by one process: it imports once."""
    for _ in range(3):
        assert helper.ask(Task.CUT, PATIENCE_S) == Done()
    assert len(book.lines("cut")) == 3
    assert len(set(book.lines("cut"))) == 1


def test_a_task_is_done_that_nobody_waits_for(helper: Helper, book: Book) -> None:
    """`go` returns at once; resolvers are looked for again and again."""
    helper.go(Task.CUT)
    helper.go(Task.LOOK)
    until(lambda: book.lines("cut") and len(book.lines("look")) > 3)


def test_a_request_is_done_by_a_process_of_its_own(helper: Helper, book: Book) -> None:
    """What it takes is given back."""
    assert [helper.ask(Survey()).text for _ in range(2)] == ["done", "done"]
    assert len(set(book.lines("perform"))) == 2


def test_what_fails_is_the_answer(helper: Helper) -> None:
    """With its hint if it has one; a defect and a killed process say that the log knows more."""
    assert helper.ask(Lock("unknown")) == Done(error="no such target", hint="look")
    assert helper.ask(Lock("defect")) == broken()
    assert helper.ask(Lock("killed")) == broken()
    assert helper.ask(Survey()).text == "done"


def test_tasks_are_done_while_a_request_lasts(helper: Helper, book: Book) -> None:
    """And an answer that comes too late is not taken for the next one's."""
    with pytest.raises(HostError, match="timed out"):
        helper.ask(Unlock("slow"), patience_s=0.2)
    assert helper.ask(Task.CUT, PATIENCE_S) == Done()
    book.gate.touch()
    assert helper.ask(Survey()) == Done("done")
    assert helper.ask(Lock("unknown")).error == "no such target"


def test_a_worker_that_is_killed_is_made_again(helper: Helper, book: Book) -> None:
    """Who waits for its answer is told; what comes next is done."""
    assert helper.ask(Task.CUT, PATIENCE_S) == Done()
    assert helper.ask(Task.MARK, PATIENCE_S) == broken()
    assert helper.ask(Task.CUT, PATIENCE_S) == Done()
    assert len(set(book.lines("cut"))) == 2


def test_a_helper_that_is_killed_is_missed_by_who_asks_only(helper: Helper) -> None:
    """`go` goes on: the kernel half denies, and ends connections by itself."""
    os.kill(helper.pid, signal.SIGKILL)
    with pytest.raises(HostError, match="does not answer"):
        helper.ask(Survey())
    helper.go(Task.CUT)


def test_it_ends_when_the_daemon_hangs_up(book: Book) -> None:
    """A request that it has at hand is finished first, nothing of it is left."""
    one = Helper(Duties({Task.CUT: lambda: book.note("cut")}, lambda _: Done()))
    one.ask(Task.CUT, PATIENCE_S)
    one.close()
    gone = [one.pid, *book.lines("cut")]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in gone))


def test_it_holds_nothing_that_is_not_for_it() -> None:
    """A port or a lock of a daemon that was killed is free for the next one."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    one = Helper(Duties({}, lambda _: Done()), (writing,))
    one.ask(Survey())
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    one.close()
