"""Which containers a target means, told to the kernel half as engines tell of them.

A container's id is told when it is made, before its cgroup is. A cgroup of a container that is not known is
held by the kernel half, where a policy might concern it; engines are asked whose it is, in threads, and the
answer releases it. One that no engine can tell about stays held, and is asked about again.
"""

from __future__ import annotations

import os
import select
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from tracer.containers.engines import Undecided
from tracer.model.containers import ContainerPattern, candidate, places
from tracer.model.text import escape
from tracer.runtimes.detect import is_container
from tracer.runtimes.profiles import runtimes
from tracer.targets.finder import Kind, Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracer.bpf.engine import Engine
    from tracer.containers.engines import ContainerEngines
    from tracer.model.containers import Container, Place
    from tracer.model.rows import NoticeRow
    from tracer.targets.kernel import Membership

log = structlog.get_logger("tattle")

_WORKERS: Final = 4
_AGAIN_S: Final = 0.5  # the undecided are asked about again so often


def concerns_containers(selector: Selector) -> bool:
    """Tell whether a target may be a container that only an engine can name."""
    if selector.kind is Kind.CONTAINER:
        return True
    if selector.kind is not Kind.PROFILE:
        return False
    find = runtimes()[selector.value].find
    return bool(find.images or find.containers)


def means(selector: Selector, container: Container) -> bool:
    """Tell whether a target means a container."""
    if selector.kind is Kind.CONTAINER:
        return ContainerPattern(selector.value).matches(container)
    return selector.kind is Kind.PROFILE and is_container(container, runtimes()[selector.value].find)


class _Answer(NamedTuple):
    """What engines say of a held cgroup; `sure` False: none can tell."""

    cgroup: int
    container: Container | None
    sure: bool


class ContainerTargets:
    """The containers of the targets of one engine. Methods are for one thread, with the policies locked."""

    def __init__(self, members: Membership, engines: ContainerEngines) -> None:
        self._members = members
        self._engines = engines
        self._crowded: set[str] = set()

    @property
    def wanted(self) -> dict[int, Selector]:
        """The targets, by number, that may be containers."""
        found = self._members.selectors().items()
        return {number: one for number, one in found if concerns_containers(one)}

    def sync(self) -> None:
        """Tell the kernel half of all containers that engines know, and of those that are gone.

        One that no engine tells of stays known while its cgroup is there: the engine may be silent.
        """
        wanted, told = self.wanted, self._members.known()
        known = {one.id: _targets_of(one, wanted) for one in self._engines.all()} if wanted else {}
        crowded = self._members.crowded()
        changed = [
            identifier
            for identifier, targets in known.items()
            if told.get(identifier) != targets or identifier in crowded
        ]
        for identifier in changed:
            self._members.know(identifier, known[identifier])
        if gone := told.keys() - known.keys():
            here = {candidate(path.rpartition("/")[2]) for path, _ in self._members.candidates().values()}
            for identifier in gone - here:
                self._members.forget(identifier)
        if changed:
            self._members.spread()
            self._members.renew()
        self._tell_crowded(self._members.crowded())

    def _tell_crowded(self, crowded: set[str]) -> None:
        for identifier in sorted(crowded - self._crowded):
            log.warning("held: in more targets than can be told apart (4)", container=identifier)
        self._crowded = crowded

    def settle(self, *, wait: bool) -> None:
        """Hold the containers that are there and that no engine tells of: one of them may be meant.

        With `wait` engines are asked for each first.
        """
        known = self._members.known()
        for cgroup, (path, held) in self._members.candidates().items():
            place = next(places(path), None)
            if place is None or place.path != path or place.id in known or (held and not wait):
                continue
            try:
                found = self._engines.decide(place) if wait else _undecided(place)
            except Undecided:
                self._members.hold_cgroup(cgroup)
            else:
                self._members.decide(cgroup, self.targets_of(found) if found else ())

    def targets_of(self, container: Container) -> tuple[int, ...]:
        """Return the numbers of the targets that mean a container."""
        return _targets_of(container, self.wanted)


def _undecided(place: Place) -> Container | None:
    raise Undecided(place.path)


def _targets_of(container: Container, wanted: Mapping[int, Selector]) -> tuple[int, ...]:
    return tuple(number for number, one in sorted(wanted.items()) if means(one, container))


class HeldContainers:
    """Cgroups that the kernel half holds, decided by asking engines in threads.

    The daemon's loop waits for `notices` and for `answers`, and then calls `take`.
    """

    def __init__(
        self,
        engine: Engine,
        members: Membership,
        containers: ContainerTargets,
        tell: Callable[[list[NoticeRow]], None],
    ) -> None:
        """`tell` is given what the kernel half has noticed."""
        self._engine = engine
        self._tell = tell
        self._members = members
        self._containers = containers
        self.notices = engine.notices()
        self.answers = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asked: set[int] = set()
        self._undecided: dict[int, str] = {}
        self._told: dict[int, str] = {}
        self._again_at = 0.0
        self._questions: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
        self._answers: SimpleQueue[_Answer] = SimpleQueue()

    def start(self, engines: ContainerEngines) -> None:
        """Begin to ask, in threads; and have `answers` readable whenever an engine tells something."""
        for number in range(_WORKERS):
            name = f"containers {number}"
            threading.Thread(target=self._work, args=(engines,), name=name, daemon=True).start()
        engines.start(self._wake)

    def close(self) -> None:
        """End the threads, each when it has its answer."""
        for _ in range(_WORKERS):
            self._questions.put(None)
        self.notices.close()

    @property
    def undecided(self) -> list[str]:
        """The cgroups that no engine can tell about, and that stay held."""
        return sorted(self._undecided.values())

    def take(self) -> None:
        """Decide what has been answered, and ask about what is new. With the policies locked."""
        self._drain()
        self._containers.sync()
        while not self._answers.empty():
            self._decide(self._answers.get())
        self._ask()

    def again(self) -> bool:
        """Tell whether it is time to ask about the undecided once more."""
        return bool(self._undecided) and time.monotonic() >= self._again_at

    def _drain(self) -> None:
        self._tell(self.notices.drain())  # what is held stands in the table, too, and there none is ever lost
        if select.select([self.answers], [], [], 0)[0]:
            os.eventfd_read(self.answers)

    def _ask(self) -> None:
        known = self._members.known()
        held = {
            cgroup: path
            for cgroup, (path, is_held) in self._members.candidates().items()
            if is_held and candidate(path.rpartition("/")[2]) not in known
        }
        again = self.again()
        for cgroup in self._undecided.keys() - held.keys():
            log.info("held no more", container=escape(self._undecided.pop(cgroup)))
        for cgroup, path in held.items():
            if cgroup not in self._asked and (again or cgroup not in self._undecided):
                self._asked.add(cgroup)
                self._questions.put((cgroup, path))
        if again:
            self._again_at = time.monotonic() + _AGAIN_S

    def _decide(self, answer: _Answer) -> None:
        self._asked.discard(answer.cgroup)
        path = self._told.pop(answer.cgroup, "")
        if not answer.sure:
            if answer.cgroup not in self._undecided:
                log.warning("held: no engine tells whose container it is", container=escape(path))
                self._again_at = time.monotonic() + _AGAIN_S
            self._undecided[answer.cgroup] = path
            return
        targets = self._containers.targets_of(answer.container) if answer.container else ()
        self._members.decide(answer.cgroup, targets)
        self._undecided.pop(answer.cgroup, None)

    def _wake(self) -> None:
        os.eventfd_write(self.answers, 1)

    def _work(self, engines: ContainerEngines) -> None:
        while (question := self._questions.get()) is not None:
            cgroup, path = question
            self._told[cgroup] = path
            place = next(places(path), None)
            try:
                found = engines.decide(place) if place and place.path == path else None
                answer = _Answer(cgroup, found, sure=True)
            except Undecided:
                answer = _Answer(cgroup, None, sure=False)
            self._answers.put(answer)
            self._wake()
