"""Processes that run already: found, and marked with all their descendants, without a race with fork.

The kernel half marks what is executed or forked from now on, before this begins. A process that is forked
meanwhile by one that is not marked yet is told in `births`, so that also one whose parent has ended by then
is found. What had ended before this began is not known any more: a daemon that left its starter long ago is
a member only if it executes the program itself.
"""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.host.cgroups import walk_cgroups
from tracer.runtimes.detect import command, programs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracer.bpf.engine import Engine
    from tracer.bpf.maps.members import MemberMaps, Members
    from tracer.targets.meaning import Meaning

_ROUNDS = 100  # of looking at all processes: each round but the last has found a new member


class Sweep:
    """Marks what runs; `proc` is the process file system."""

    def __init__(self, tables: MemberMaps, proc: Path | None = None) -> None:
        self._tables = tables
        self._proc = proc or Path("/proc")

    def run(self, fresh: Mapping[int, Meaning]) -> None:
        """Mark the members of these targets."""
        wanted = {number: one for number, one in fresh.items() if one.has_processes}
        if not wanted:
            return
        family: dict[int, Members] = {}
        for _ in range(_ROUNDS):
            found = self._members(wanted, family)
            if not found:
                break
            for tgid, members in found.items():
                family[tgid] = (*family.get(tgid, ()), *members)
                self._mark(tgid, members)
        self._tables.forget_births()

    def running(self, one: Meaning) -> set[int]:
        """Return the members that a target would have: who matches now, and their children."""
        family: dict[int, Members] = {}
        for _ in range(_ROUNDS):
            if not (found := self._members({1: one}, family)):
                break
            family.update(found)
        return set(family)

    def _members(self, wanted: Mapping[int, Meaning], family: Mapping[int, Members]) -> dict[int, Members]:
        """Return who is in which of these targets and was not known to be."""
        parents = {**dict(self._processes()), **self._tables.births()}
        found: dict[int, Members] = {}
        for tgid, parent in parents.items():
            own = () if tgid in family else tuple(n for n, one in wanted.items() if self.is_member(tgid, one))
            members = dict.fromkeys((*own, *family.get(parent, ())))
            if fresh := tuple(one for one in members if one not in family.get(tgid, ())):
                found[tgid] = fresh
        return found

    def _processes(self) -> Iterator[tuple[int, int]]:
        for entry in os.scandir(self._proc):
            if entry.name.isdigit() and (parent := self.parent(int(entry.name))) is not None:
                yield int(entry.name), parent

    def parent(self, tgid: int) -> int | None:
        """Return a process's parent, None where it is gone (proc_pid_stat(5): field 4)."""
        try:
            stat = (self._proc / str(tgid) / "stat").read_bytes()
        except OSError:
            return None
        return int(stat.rpartition(b")")[2].split()[1])

    def is_member(self, tgid: int, one: Meaning) -> bool:
        """Tell whether a process itself is what is meant, as bpf/program.bpf.h does when it is executed."""
        if one.pid is not None:
            return tgid == one.pid
        process = self._proc / str(tgid)
        paths = programs(process)
        fitting = [program for program in one.programs if any(program.fits(path) for path in paths)]
        if not fitting:
            return False
        return any(not program.asked for program in fitting) or not self._speaks_against(tgid, one)

    def _speaks_against(self, tgid: int, one: Meaning) -> bool:
        process = self._proc / str(tgid)
        if one.clients and (command(process) or "") in one.clients:
            return True
        parent = self.parent(tgid)
        above = {path.rpartition("/")[2] for path in programs(self._proc / str(parent))} if parent else set()
        return bool(above & set(one.parents))

    def _mark(self, tgid: int, members: Members) -> None:
        """Mark a process, unless its number has come to mean another one meanwhile."""
        try:
            pidfd = os.pidfd_open(tgid)
        except OSError:
            return
        try:
            before = self._tables.mark(tgid)
            known = before.members if before else ()
            self._tables.put_mark(
                tgid, tuple(dict.fromkeys((*known, *members))), before.start_ns if before else 0
            )
            if not _lives(pidfd):
                self._tables.put_mark(tgid, ())
        finally:
            os.close(pidfd)

    def take_along(self, engine: Engine) -> None:
        """Mark what is in the cgroups of targets: what leaves them from here on stays in the targets."""
        inside = {row.id: row.target for row in engine.maps.cgroups() if row.target}
        for number, path in walk_cgroups(engine.root) if inside else ():
            members = self._tables.members(inside.get(number, 0))
            for tgid in processes_in(engine.root / os.fsdecode(path).lstrip("/")) if members else ():
                mark = self._tables.mark(tgid)
                if mark is None or set(members) - set(mark.members):
                    self._mark(tgid, members)


def processes_in(directory: Path) -> list[int]:
    """Return the processes of a cgroup, without those below it (cgroups(7): cgroup.procs)."""
    try:
        return [int(word) for word in (directory / "cgroup.procs").read_text(encoding="ascii").split()]
    except OSError:  # gone meanwhile, or threaded: then its processes are listed further up
        return []


def _lives(pidfd: int) -> bool:
    """Tell whether a process has not ended (pidfd_open(2): readable when it has)."""
    return not select.select([pidfd], [], [], 0)[0]
