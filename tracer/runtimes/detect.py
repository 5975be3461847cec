"""Which model runtime a process or a cgroup is: by executable, unit, container or desktop session.

/proc is read, and of a process nothing but its executable, arguments and parent.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from tracer.host.cgroups import members
from tracer.model.containers import places
from tracer.runtimes.profiles import runtimes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tracer.containers.engines import ContainerEngines
    from tracer.model.containers import Container
    from tracer.runtimes.profiles import Find, Runtime

# What runs a program that is its argument: Python's scripts and modules, APE's loader (llamafile)
_INTERPRETERS: Final = ("python*", "ape", ".ape-*")


def arguments(process: Path) -> list[str]:
    """Give a process's arguments, its name first; empty where it has none, or is gone."""
    try:
        raw = (process / "cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode("utf-8", "surrogateescape").rstrip("\0").split("\0") if raw else []


def programs(process: Path) -> set[str]:
    """Give the paths and modules by which a process goes: its executable's and what that interprets."""
    try:
        executable = str((process / "exe").readlink()).removesuffix(" (deleted)")
    except OSError:
        return set()
    if not is_interpreter(executable):
        return {executable}
    given = arguments(process)[1:3]
    if given[:1] == ["-m"]:
        return {executable, *given[1:]}
    return {executable, *({given[0], f"{_directory(process)}/{given[0]}"} if given else ())}


def is_interpreter(executable: str) -> bool:
    """Tell whether an executable runs programs that are its arguments."""
    base = executable.rpartition("/")[2]
    return any(fnmatchcase(base, one) for one in _INTERPRETERS)


def command(process: Path) -> str | None:
    """Return the first argument that is no option (of a script: behind its name); None: there is none."""
    given = arguments(process)[1:]
    try:
        interprets = is_interpreter(str((process / "exe").readlink()).removesuffix(" (deleted)"))
    except OSError:
        return None
    if interprets:
        given = given[2:] if given[:1] == ["-m"] else given[1:]
    return next((word for word in given if not word.startswith("-")), None)


def is_client(process: Path, find: Find) -> bool:
    """Tell whether a process of the runtime's program only asks one that runs."""
    return bool(find.clients) and _only_asks(command(process), find)


def _only_asks(word: str | None, find: Find) -> bool:
    return (word or "") in find.clients


def _directory(process: Path) -> str:
    try:
        return str((process / "cwd").readlink())
    except OSError:
        return ""


def named(patterns: Iterable[str], paths: Iterable[str]) -> bool:
    """Tell whether one of the paths ends in one of the patterns, whole path parts of it."""
    paths = tuple(paths)
    return any(fnmatchcase(path, one) or fnmatchcase(path, f"*/{one}") for one in patterns for path in paths)


def of_command(words: Sequence[str]) -> Runtime | None:
    """Return the runtime that a command line would start; None for none, and for one's client."""
    program = shutil.which(words[0]) or words[0]
    paths, given = {program, os.path.realpath(program)}, list(words[1:])
    if any(map(is_interpreter, paths)):
        given = given[1:] if given[:1] == ["-m"] else given
        paths.update(given[:1])
        given = given[1:]
    word = next((one for one in given if not one.startswith("-")), None)
    found = (one for one in runtimes().values() if named(one.find.exes, paths))
    return next((one for one in found if not _only_asks(word, one.find)), None)


def is_container(container: Container, find: Find) -> bool:
    """Tell whether a container is one of a runtime: by a name that it usually has, or by its image."""
    names = {container.name, *container.aliases}
    return bool(names & set(find.containers)) or named(find.images, container.images)


@dataclass(frozen=True)
class Recognizer:
    """Knows processes and cgroups by profiles; `proc` is the process file system, `root` the cgroups'."""

    root: Path
    proc: Path
    engines: ContainerEngines

    def is_process(self, pid: str, runtime: Runtime) -> bool:
        """Tell whether a process is the runtime's own program, no client, and not another runtime's child."""
        return self._is(pid, programs(self.proc / pid), runtime)

    def _is(self, pid: str, paths: set[str], runtime: Runtime) -> bool:
        find = runtime.find
        if not named(find.exes, paths):
            return False
        if is_client(self.proc / pid, find):
            return False
        parents = programs(self.proc / self._parent(pid))
        others = (one.find for one in runtimes().values() if one.name != runtime.name)
        return not any(named(find.children, paths) and named(find.exes, parents) for find in others)

    def is_child(self, pid: str, runtime: Runtime) -> bool:
        """Tell whether a process is a child that the runtime is known to start."""
        parents = programs(self.proc / self._parent(pid))
        return named(runtime.find.children, programs(self.proc / pid)) and named(runtime.find.exes, parents)

    def _parent(self, pid: str) -> str:
        try:
            stat = (self.proc / pid / "stat").read_bytes()
        except OSError:
            return "0"
        return stat.rpartition(b")")[2].split()[1].decode()  # proc_pid_stat(5): field 4, ppid

    def is_place(self, cgroup: str, find: Find) -> bool:
        """Tell whether a cgroup is a unit, a session or a container of the runtime."""
        last = cgroup.rpartition("/")[2]
        if last in find.units or any(fnmatchcase(last, one) for one in find.session):
            return True
        place = next(places(cgroup), None)
        if place is None or place.path != cgroup:
            return False
        container = self.engines.at(place)
        return container is not None and is_container(container, find)

    def runtime(self, cgroups: Iterable[str]) -> Runtime | None:
        """Give the one runtime that these cgroups are, or that runs in them; None: none, or several."""
        cgroups = tuple(cgroups)
        by_place = [
            one for one in runtimes().values() if any(self.is_place(path, one.find) for path in cgroups)
        ]
        if len(by_place) == 1:
            return by_place[0]
        paths = {pid: programs(self.proc / pid) for path in cgroups for pid in self.members(path)}
        inside = [one for one in runtimes().values() if any(self._is(*by, one) for by in paths.items())]
        return inside[0] if len(inside) == 1 else None

    def members(self, cgroup: str) -> list[str]:
        """Give the processes of a cgroup and those below it."""
        return members(self.root / cgroup.lstrip("/"))
