"""From a process's id in the kernel's tables to who it is, remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.containers.engines import ContainerEngines
from tracer.model.process import (
    ProcessInfo,
    cgroup_text,
    comm_text,
    container_of,
    exe_text,
    unit_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.bpf.maps.tables import Maps
    from tracer.model.rows import ProcessRow

_CACHE_MAX: Final = 32768


class Registry:
    """Identities by process id; a snapshot never changes, so what was read once stays right."""

    def __init__(
        self,
        maps: Maps,
        enums: dict[str, dict[str, int]],
        target_name: Callable[[int], str | None],
        engines: ContainerEngines | None = None,
        members: Callable[[int], tuple[int, ...]] = lambda number: (number,),
    ) -> None:
        """Use `target_name` for a target's number, and `members` for those that a number stands for."""
        self._maps = maps
        self._exe_cut = enums["process_flags"]["PROCESS_EXE_CUT"]
        self._target_name = target_name
        self._members = members
        self._engines = engines or ContainerEngines()
        self._known: dict[int, ProcessInfo] = {}
        self._generation = self._engines.generation
        self._unnamed_cgroups: set[int] = set()  # of containers that no engine has told of yet
        self._unnamed: set[int] = set()  # processes in them
        self._cgroups: dict[int, tuple[str | None, str | None, str | None]] = {}

    def get(self, number: int) -> ProcessInfo | None:
        """Give the process with this id; None where the kernel half could not note it."""
        if self._engines.generation != self._generation:
            self._ask_again()
        found = self._known.get(number)
        if found is None and number:
            row = self._maps.process(number)
            if row is not None:
                found = self._info(row)
                if row.target and found.target is None:
                    return found  # a number whose name is not known yet: asked again the next time
                self._remember(number, found)
                if row.cgroup in self._unnamed_cgroups:
                    self._unnamed.add(number)
        return found

    def targets(self, number: int) -> tuple[str, ...]:
        """Return the names of the targets that a number of the kernel half stands for."""
        return tuple(filter(None, map(self._target_name, self._members(number))))

    def cgroup(self, number: int) -> str | None:
        """Return the path of the cgroup with this id; None where it is not known."""
        return self._place(number, b"")[0]

    def forget(self, numbers: set[int]) -> None:
        """Drop these from memory."""
        for number in numbers:
            self._known.pop(number, None)

    def _ask_again(self) -> None:
        """Forget the containers that had no name: an engine has told something since."""
        self._generation = self._engines.generation
        for number in self._unnamed:
            self._known.pop(number, None)
        for number in self._unnamed_cgroups:
            self._cgroups.pop(number, None)
        self._unnamed.clear()
        self._unnamed_cgroups.clear()

    def _remember(self, number: int, info: ProcessInfo) -> None:
        if len(self._known) >= _CACHE_MAX:
            self._known.clear()
        self._known[number] = info

    def _info(self, row: ProcessRow) -> ProcessInfo:
        cgroup, unit, container = self._place(row.cgroup, row.cgroup_path)
        targets = self.targets(row.target)
        return ProcessInfo(
            pid=row.tgid,
            ppid=row.ppid,
            comm=comm_text(row.comm),
            parent_comm=comm_text(row.parent_comm),
            exe=exe_text(row.exe, cut=bool(row.flags & self._exe_cut)),
            uid=row.uid,
            cgroup=cgroup,
            unit=unit,
            container=container,
            target=targets[0] if targets else None,
            targets=targets,
        )

    def _place(self, number: int, path_then: bytes) -> tuple[str | None, str | None, str | None]:
        """Give cgroup, unit and container, as the process had them; many processes share these texts."""
        if number not in self._cgroups:
            path_now = self._maps.cgroup(number) if not path_then else None
            raw = path_now.path if path_now else path_then
            if not raw:
                return None, None, None
            if len(self._cgroups) >= _CACHE_MAX:
                self._cgroups.clear()
            path = cgroup_text(raw)
            container = self._engines.of(path)
            place = (path, unit_of(path), container.name if container else container_of(path))
            if container is None and place[2] is not None:
                self._unnamed_cgroups.add(number)
            self._cgroups[number] = place
        return self._cgroups[number]
