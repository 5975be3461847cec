"""What a selector means to the kernel half: cgroups by path, by name and by pattern, programs, a process."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from tracer.model.containers import places
from tracer.runtimes.profiles import runtimes
from tracer.targets.finder import Kind, Selector

if TYPE_CHECKING:
    from collections.abc import Iterable

_TEMPLATE: Final = re.compile(r"(.+@)(\.[a-z]+)\Z")  # systemd.unit(5): NAME@.TYPE, instances NAME@X.TYPE


@dataclass(frozen=True)
class Program:
    """A program by the end of its path; `absolute`: by all. `asked`: unless it is a client or a child."""

    path: str
    absolute: bool = False
    asked: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts from the file's name upwards; an empty one is the root."""
        parts = tuple(reversed(self.path.strip("/").split("/")))
        return (*parts, "") if self.absolute else parts

    def fits(self, path: str) -> bool:
        """Tell whether a process that goes by this path, or module, executes the program."""
        if self.absolute:
            return path == self.path
        return fnmatchcase(path, self.path) or fnmatchcase(path, f"*/{self.path}")


@dataclass(frozen=True)
class Meaning:
    """All that a target is called.

    `paths` are cgroups below the mount, `names` last parts of paths and ids of containers, `patterns` paths
    and `instances` last parts with a `*`. Of `programs` those are no members that are clients (their first
    word is one of `clients`, "" for none) or whose parent executes one of `parents`.
    """

    paths: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    programs: tuple[Program, ...] = ()
    clients: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    pid: int | None = None

    @property
    def has_processes(self) -> bool:
        """Whether processes are told apart, and not only cgroups."""
        return bool(self.programs) or self.pid is not None


def meaning(selector: Selector, cgroups: Iterable[str] = ()) -> Meaning:
    """Return what a selector means; `cgroups` are those that it was found in, for containers among them."""
    ids = tuple(dict.fromkeys(place.id for path in cgroups for place in places(path) if place.path == path))
    value = selector.value
    if selector.kind is Kind.UNIT:
        template = _TEMPLATE.match(value)
        return Meaning(instances=(f"{template[1]}*{template[2]}",)) if template else Meaning(names=(value,))
    if selector.kind is Kind.CGROUP:
        return Meaning(patterns=(value,)) if "*" in value else Meaning(paths=(value,))
    if selector.kind is Kind.PID:
        return Meaning(pid=int(value))
    if selector.kind is Kind.EXE:
        return Meaning(programs=_executable(value))
    if selector.kind is Kind.PROFILE:
        return _profile(value, ids)
    return _machine(value, ids)


def executes(one: Meaning, exe: str | None) -> bool:
    """Tell whether a program with this path is what a target means, or would be if it were no client."""
    return exe is not None and any(program.fits(exe) for program in one.programs)


def _machine(value: str, ids: tuple[str, ...]) -> Meaning:
    """LXC's and nspawn's containers are called by their names (tracer/model/containers.py), others by ids."""
    if "/" in value or value.count("*") > 1:
        return Meaning(names=ids)
    escaped = value.replace("-", "\\x2d")  # systemd.unit(5)
    names = (f"lxc.payload.{value}", f"machine-{escaped}.scope", f"systemd-nspawn@{escaped}.service")
    if "*" in value:
        return Meaning(names=ids, patterns=(f"/lxc/{value}",), instances=names)
    return Meaning(names=(*ids, *names), paths=(f"/lxc/{value}",))


def _executable(value: str) -> tuple[Program, ...]:
    if not value.startswith("/"):
        return (Program(value),)
    return tuple(Program(path, absolute=True) for path in dict.fromkeys((value, os.path.realpath(value))))


def _profile(name: str, ids: tuple[str, ...]) -> Meaning:
    known = runtimes()
    find = known[name].find
    owners = tuple(
        exe
        for other in known.values()
        if other.name != name and set(other.find.children) & set(find.exes)
        for exe in other.find.exes
        if "*" not in exe and "/" not in exe
    )
    return Meaning(
        names=(*find.units, *ids),
        programs=tuple(Program(exe, asked=True) for exe in find.exes),
        clients=find.clients,
        parents=tuple(dict.fromkeys(owners)),
    )
