"""Targets: what the user names, found as cgroups.

A selector is `ollama` (a profile), `exe:NAME`, `unit:ollama.service`, `cgroup:/path`, `pid:N` or
`container:NAME`. The kernel knows a target by a small number; which number means which selector is kept in
the state directory, so that a successor who adopts the maps reads them right.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.containers.engines import ContainerEngines
from tracer.errors import HostError, TargetRefused, UsageError
from tracer.host.files import locked, rename_whole, write_whole
from tracer.model.containers import Container, ContainerPattern, places
from tracer.model.text import escape
from tracer.runtimes.detect import Recognizer
from tracer.runtimes.profiles import runtimes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracer.runtimes.profiles import Runtime

_UNIT: Final = re.compile(r"[A-Za-z0-9:_.@\\-]+\Z")  # systemd.unit(5): what a unit name may be made of
_PART_MAX: Final = 123  # bytes: PART_LEN of bpf/abi.h
_SIDE_MAX: Final = 56  # bytes before and behind a `*`: GLOB_LEN of bpf/abi.h
_FORMS: Final = "a runtime's name, exe:NAME, exe:/PATH, unit:NAME, cgroup:/PATH, pid:N or container:NAME"


class Kind(StrEnum):
    """The forms of a selector."""

    PROFILE = "profile"
    UNIT = "unit"
    CGROUP = "cgroup"
    PID = "pid"
    CONTAINER = "container"
    EXE = "exe"


_WHOLE: Final = frozenset({Kind.UNIT, Kind.CGROUP, Kind.CONTAINER})
"""Selectors that mean whole cgroups, with all that is in them."""


@dataclass(frozen=True)
class Selector:
    """A selector as the user gave it (`text`), taken apart."""

    text: str
    kind: Kind
    value: str


@dataclass(frozen=True)
class Target:
    """A selector with the number the kernel knows it by and the cgroups that it means now."""

    selector: str
    id: int
    cgroups: tuple[str, ...]


def parse(text: str) -> Selector:
    """Take a selector apart; raises UsageError that quotes it."""
    prefix, colon, value = text.partition(":")
    if not colon:
        return _profile(text)
    check = {
        "unit": lambda: _UNIT.match(value) is not None,
        "cgroup": lambda: value.startswith("/") and _are_parts(value),
        "pid": lambda: value.isascii() and value.isdigit() and int(value) > 0,
        "container": lambda: ContainerPattern.parse(value) is not None,
        "exe": lambda: _is_program(value),
    }.get(prefix)
    if check is None or not check():
        raise UsageError(f"'{escape(text)}' is no target", f"give {_FORMS}")
    if prefix == "unit" and "." not in value:
        value += ".service"
    if prefix == "cgroup":
        value = "/" + "/".join(part for part in value.split("/") if part not in ("", "."))
    return Selector(text, Kind(prefix), value)


def _are_parts(path: str) -> bool:
    """Tell whether a path's parts are such as the kernel half compares: no `..`, at most one `*` in each."""
    parts = path.split("/")
    return ".." not in parts and all(map(_is_part, parts if "*" in path else ()))


def _is_part(part: str) -> bool:
    sides = [len(os.fsencode(side)) for side in part.split("*")]
    return sides[0] <= _PART_MAX if len(sides) == 1 else len(sides) == 2 and max(sides) <= _SIDE_MAX  # noqa: PLR2004


def _is_program(value: str) -> bool:
    parts = value.strip("/").split("/")
    fits = all(part and len(os.fsencode(part)) <= _PART_MAX for part in parts)
    return fits and ("/" not in value or value.startswith("/")) and _are_parts(value)


def _profile(text: str) -> Selector:
    if text not in runtimes():
        known = ", ".join(runtimes())
        raise UsageError(
            f"no runtime is known by the name '{escape(text)}'", f"known: {known}; or give {_FORMS}"
        )
    return Selector(text, Kind.PROFILE, text)


@dataclass(frozen=True)
class Finder:
    """Finds selectors on this host: `root` is the cgroup v2 mount, `proc` the process file system."""

    root: Path
    proc: Path = Path("/proc")
    engines: ContainerEngines = field(default_factory=ContainerEngines)

    def find(self, selector: Selector) -> tuple[str, ...]:
        """Give the cgroups (paths below the mount) that a selector means now.

        Raises HostError that names what is absent, or why the cgroup cannot be a target.
        """
        paths: Iterable[str] = {
            Kind.PROFILE: self._by_profile,
            Kind.UNIT: self._by_unit,
            Kind.CGROUP: self._by_path,
            Kind.PID: self._by_pid,
            Kind.CONTAINER: self._by_container,
            Kind.EXE: self._by_nothing,
        }[selector.kind](selector.value)
        for path in paths if selector.kind in _WHOLE else ():
            self._refuse(selector, path)
        return tuple(paths)

    def own(self, selector: Selector) -> tuple[str, ...]:
        """Give the cgroups of which all is in the target now; raises as `find` does.

        Of programs that run in others' cgroups (a terminal's, a session's) there are none.
        """
        found = self.find(selector)
        if selector.kind in _WHOLE:
            return found
        if selector.kind is not Kind.PROFILE:
            return ()
        by = runtimes()[selector.value].find
        return tuple(path for path in found if self.recognizer.is_place(path, by))

    def expected(self, selector: Selector) -> tuple[str, ...]:
        """Give the cgroups where an absent target will appear, as far as its selector tells."""
        if selector.kind is Kind.CGROUP and "*" not in selector.value:
            self._refuse(selector, selector.value)
            return (selector.value,)
        return ()

    def is_awaited(self, selector: Selector) -> bool:
        """Tell whether it is known when an absent target appears; of containers by their engines."""
        return selector.kind is not Kind.PID

    def _refuse(self, selector: Selector, path: str) -> None:
        if path == "/":
            raise TargetRefused(
                f"'{escape(selector.text)}' is the root cgroup: every process would be in the target",
                "move the program into a cgroup of its own: systemd-run --scope COMMAND",
            )
        if path == self.cgroup_of("self"):
            raise TargetRefused(
                f"'{escape(selector.text)}' is tattle's own cgroup, {escape(path)}",
                "start the program in a cgroup of its own: systemd-run --scope COMMAND",
            )

    def cgroup_of(self, pid: str) -> str | None:
        """Give a process's cgroup v2 path (cgroups(7), /proc/PID/cgroup: the line of hierarchy 0)."""
        try:
            lines = (self.proc / pid / "cgroup").read_bytes().decode("utf-8", "surrogateescape").splitlines()
        except OSError:
            return None
        return next((line[3:].removesuffix(" (deleted)") for line in lines if line.startswith("0::")), None)

    def places(self) -> Iterator[str]:
        """Yield every cgroup's path."""
        return self._walk()

    def _walk(self) -> Iterator[str]:
        for directory, _, _ in os.walk(self.root):
            yield directory[len(str(self.root)) :] or "/"

    def _by_nothing(self, _: str) -> list[str]:
        """Find no cgroup: what is meant are processes, whatever cgroup they are in."""
        return []

    def _by_path(self, value: str) -> list[str]:
        if "*" in value:
            return _outermost([path for path in self._walk() if _meets(path, value)])
        if not (self.root / value.lstrip("/")).is_dir():
            raise HostError(
                f"no such cgroup: {escape(value)} (below {self.root})",
                "systemd-cgls and systemctl status show paths",
            )
        return [value]

    def _by_unit(self, value: str) -> list[str]:
        instances = value.replace("@.", "@*.") if "@." in value else value
        found = [path for path in self._walk() if fnmatchcase(path.rpartition("/")[2], instances)]
        if not found:
            raise HostError(
                f"unit {escape(value)} has no cgroup: it does not run", f"systemctl start {escape(value)}"
            )
        return _outermost(found)

    def _by_pid(self, value: str) -> list[str]:
        path = self.cgroup_of(value)
        if path is None:
            raise HostError(f"no such process: {value}", "pgrep -a NAME shows the processes that run")
        return [path]

    def _by_container(self, value: str) -> list[str]:
        pattern = ContainerPattern(value)
        found = [path for path in self._walk() if self.is_container(path, pattern)]
        if not found:
            raise HostError(
                f"no such container: {escape(value)}", "docker ps or podman ps shows the containers that run"
            )
        return _outermost(found)

    def is_container(self, path: str, pattern: ContainerPattern) -> bool:
        """Tell whether a cgroup is the own one of a container that is meant."""
        place = next(places(path), None)
        if place is None or place.path != path:
            return False
        known = self.engines.at(place)
        return pattern.matches(known or Container(place.id, ""))

    def _by_profile(self, value: str) -> list[str]:
        runtime = runtimes()[value]
        by, known = runtime.find, self.recognizer
        found = [path for path in self._walk() if known.is_place(path, by)]
        found = found or sorted({path for pid in self.running(runtime) if (path := self.cgroup_of(pid))})
        if not found:
            units = " or ".join(by.units or by.exes)
            raise HostError(
                f"{value} does not run here", f"start it ({units}), or name its place: cgroup:/PATH"
            )
        return _outermost(found)

    @property
    def recognizer(self) -> Recognizer:
        """What tells runtimes on this host."""
        return Recognizer(self.root, self.proc, self.engines)

    def running(self, runtime: Runtime) -> Iterator[str]:
        """Yield the ids of the processes that are a runtime's own program."""
        for entry in os.scandir(self.proc):
            if entry.name.isdigit() and self.recognizer.is_process(entry.name, runtime):
                yield entry.name

    def runtime(self, target: Target) -> Runtime | None:
        """Give the runtime that a target is: by its name, else by what its cgroups are and hold."""
        selector = parse(target.selector)
        if selector.kind is Kind.PROFILE:
            return runtimes()[selector.value]
        return self.recognizer.runtime(target.cgroups)


def _meets(path: str, pattern: str) -> bool:
    """Tell whether a cgroup's path is of a pattern, whose `*` stays within a part."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _outermost(paths: list[str]) -> list[str]:
    """Leave out what lies below another one: the kernel passes a target on to cgroups below."""
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


BOOK: Final = "targets.json"
"""Where an instance keeps its book, in the directory of its state."""


class TargetBook:
    """Which number stands for which selector, kept in `file`; `file` None keeps nothing."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._ids: dict[str, int] = {}
        self._stamp: tuple[int, int] | None = None
        if file is not None:
            self._ids = self._read(file)
        self._names = {number: name for name, number in self._ids.items()}

    @staticmethod
    def _read(file: Path) -> dict[str, int]:
        try:
            content = json.loads(file.read_bytes())
            return {str(name): int(number) for name, number in content.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise HostError(
                f"{file} cannot be read: {error.strerror}: targets' numbers are unknown", f"ls -l {file}"
            ) from None
        except (ValueError, RecursionError, AttributeError, TypeError):
            raise HostError(
                f"{file} is damaged: targets' numbers are unknown", f"remove it: rm {file}"
            ) from None

    def reload(self) -> None:
        """Read the file again: another process may have written it."""
        if self._file is not None:
            self._ids = self._read(self._file) or self._ids
            self._names = {number: name for name, number in self._ids.items()}

    def _reload_changed(self) -> None:
        """Read the file again where it is not the one that was read last, or not to be looked at."""
        found = _stamp(self._file) if self._file else None
        if found is None or found != self._stamp:
            self.reload()
            self._stamp = found

    def name(self, number: int) -> str | None:
        """Give the selector with this number, as the user gave it; None for 0 and for unknown ones."""
        if number and number not in self._names:
            self._reload_changed()  # another process has named it: what is not known now may be soon
        return self._names.get(number)

    def number(self, selector: str) -> int:
        """Give the selector's number, a new one (from 1) at its first time.

        A number is never given to another selector: flows of the old one may live for as long as the maps.
        """
        if selector not in self._ids:
            with self._writing():
                self.reload()
                number = self._ids.get(selector) or max(self._names, default=0) + 1
                self._ids[selector] = number
                self._names[number] = selector
                self._save()
        return self._ids[selector]

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        if self._file is None:
            return contextlib.nullcontext()
        return locked(self._file.with_suffix(".lock"))

    def _save(self) -> None:
        if self._file is None:
            return
        fresh = self._file.with_suffix(".new")
        try:
            write_whole(fresh, json.dumps(self._ids, indent=1).encode() + b"\n")
            rename_whole(fresh, self._file)
        except OSError as error:
            raise HostError(
                f"cannot write {self._file}: {error.strerror}", f"make room in {self._file.parent}"
            ) from None


def _stamp(file: Path) -> tuple[int, int] | None:
    """Return what tells one version of a file from the next: each is a file of its own (rename(2))."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
