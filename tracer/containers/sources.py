"""Where this host's container engines are: their sockets, their state on disk, and what their processes say.

An engine of a user is believed about that user's containers only; root's are believed about all. What
processes say of themselves (conmon's bundle, dockerd's -H, a shim's address) is believed of root's, and of a
user's for the same user.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tracer.containers.cri import Cri
from tracer.containers.docker import DockerApi
from tracer.containers.storage import Storage
from tracer.model.containers import Container, Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.host.faults import Faults

TIMEOUT_S: Final = 2.0
"""How long a question may take that a held container waits for."""
DOCKER: Final = "/run/docker.sock"
CRI: Final = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/run/cri-dockerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
)
_STORAGE_CONF: Final = "etc/containers/storage.conf"
_GRAPH, _RUN = "var/lib/containers/storage", "run/containers/storage"  # containers-storage.conf(5)
_USER_GRAPH: Final = ".local/share/containers/storage"
_FIRST_USER: Final = 1000  # login.defs(5): UID_MIN
_NOBODY: Final = 65534
_TOLD_MAX: Final = 64  # engines that were found by their processes
_BUNDLE: Final = re.compile(r"(/.+)/[a-z0-9-]+-containers/[0-9a-f]{64}/userdata\Z")
_COMM_CONMON, _COMM_DOCKERD, _COMM_SHIM = (
    b"conmon",
    b"dockerd",
    b"containerd-shim",
)  # TASK_COMM_LEN cuts the last


class Api(Protocol):
    """What can be asked of an engine; all methods raise OSError or ValueError."""

    def listing(self) -> list[Container]:
        """Return all containers."""

    def about(self, identifier: str) -> Container | None:
        """Return one by its id; None: it is not this engine's."""

    def changes(self, quiet_s: float) -> Iterator[tuple[str, Container | None]]:
        """Yield what changes."""


class Source(NamedTuple):
    """An engine: of which family, where it is, and whose it is (a uid)."""

    family: Family
    where: str
    owner: int

    def api(self) -> Api:
        """Return what asks it."""
        if self.family is Family.DOCKER:
            return DockerApi(self.where, TIMEOUT_S)
        if self.family is Family.PODMAN:
            return Storage(tuple(map(Path, self.where.split(":"))))
        return Cri(self.where, TIMEOUT_S)


class Sources:
    """Finds engines; `root` is the host's file system, `proc` its processes."""

    def __init__(self, faults: Faults, root: Path = Path("/"), proc: Path = Path("/proc")) -> None:
        self._faults = faults
        self._root = root
        self._proc = proc
        self._told: set[Source] = set()

    def find(self, *, deep: bool = True) -> tuple[set[Source], set[Family]]:
        """Return the engines that are here, and the families of which one cannot be looked at.

        `deep` asks the processes, too. An engine that was found by its processes stays known.
        """
        if deep:
            self._told.update(one for one, _ in zip(self._running(), range(_TOLD_MAX), strict=False))
        found: set[Source] = set()
        hidden: set[Family] = set()
        for source in self._candidates():
            there = self._is_there(source)
            if there is None:
                hidden.add(source.family)
            elif there:
                found.add(source)
        return found, hidden

    def _candidates(self) -> Iterator[Source]:
        yield self._at(Family.DOCKER, DOCKER, 0)
        for path in CRI:
            yield self._at(Family.CRI, path, 0)
        yield self._storage(self._configured(), 0)
        for uid, home in self._users():
            yield self._at(Family.DOCKER, f"/run/user/{uid}/docker.sock", uid)
            yield self._storage((home / _USER_GRAPH, self._root / f"run/user/{uid}/containers"), uid)
        yield from self._told

    def _at(self, family: Family, path: str, owner: int) -> Source:
        return Source(family, str(self._root / path.lstrip("/")), owner)

    @staticmethod
    def _storage(roots: tuple[Path, ...], owner: int) -> Source:
        return Source(Family.PODMAN, ":".join(map(str, roots)), owner)

    def _configured(self) -> tuple[Path, Path]:
        """Return root's storage and run root, as storage.conf says."""
        told: dict[str, object] = {}
        file = self._root / _STORAGE_CONF
        try:
            told = tomllib.loads(file.read_text(encoding="utf-8")).get("storage", {})
        except FileNotFoundError:
            self._faults.well("podman", str(file))
        except (OSError, ValueError) as error:
            self._faults.note("podman", str(file), error)
        else:
            self._faults.well("podman", str(file))
        graph, run = (
            self._root / str(told.get(key) or default).lstrip("/")
            for key, default in (("graphroot", _GRAPH), ("runroot", _RUN))
        )
        return graph, run

    def _users(self) -> Iterator[tuple[int, Path]]:
        """Yield the users of passwd(5): by the file, since NSS may ask a network, and hang."""
        file = self._root / "etc/passwd"
        try:
            lines = file.read_bytes().decode("utf-8", "surrogateescape").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            self._faults.note("podman", str(file), error)
            return
        self._faults.well("podman", str(file))
        for line in lines:
            parts = line.split(":")
            if len(parts) > 5 and parts[2].isdigit() and _FIRST_USER <= int(parts[2]) != _NOBODY:  # noqa: PLR2004
                yield int(parts[2]), self._root / parts[5].lstrip("/")

    def _running(self) -> Iterator[Source]:
        """Yield what the processes of engines say of where they are."""
        for pid in self._pids():
            try:
                comm = (pid / "comm").read_bytes().rstrip(b"\n")
                if comm not in (_COMM_CONMON, _COMM_DOCKERD, _COMM_SHIM):
                    continue
                words = (pid / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")
                owner = (pid / "cmdline").stat().st_uid
            except OSError:  # it has ended, or is another user's on a host that hides them
                continue
            yield from _told(comm, words, owner)

    def _pids(self) -> list[Path]:
        try:
            found = [Path(entry.path) for entry in os.scandir(self._proc) if entry.name.isdigit()]
        except OSError as error:
            self._faults.note("proc", str(self._proc), error)
            return []
        self._faults.well("proc", str(self._proc))
        return found

    def _is_there(self, source: Source) -> bool | None:
        """Tell whether an engine is there; None where that may not be looked at."""
        part = source.family.value
        try:
            found = _is_storage(source.where) if source.family is Family.PODMAN else _is_socket(source.where)
        except OSError as error:
            self._faults.note(part, source.where, error)
            return None
        if not found:
            self._faults.well(part, source.where)
        return found


def _told(comm: bytes, words: list[str], owner: int) -> Iterator[Source]:
    if comm == _COMM_CONMON:
        bundle = _BUNDLE.match(_after(words, "-b"))
        if bundle:
            run = _BUNDLE.match(_after(words, "-p").removesuffix("/pidfile"))
            yield Source(
                Family.PODMAN, ":".join(dict.fromkeys((bundle[1], run[1] if run else bundle[1]))), owner
            )
    elif comm == _COMM_DOCKERD:
        for option in ("-H", "--host"):
            if (host := _after(words, option)).startswith("unix:///"):
                yield Source(Family.DOCKER, host.removeprefix("unix://"), owner)
    elif _after(words, "-namespace") == "k8s.io" and (address := _after(words, "-address")).startswith("/"):
        yield Source(Family.CRI, address, owner)


def _after(words: list[str], option: str) -> str:
    """Return what follows an option, or stands in it behind `=`."""
    for at, word in enumerate(words):
        if word == option:
            return words[at + 1] if at + 1 < len(words) else ""
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - raises what Path.is_socket() would hide
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_storage(where: str) -> bool:
    for root in where.split(":"):
        try:
            with os.scandir(root) as entries:
                if any(entry.name.endswith("-containers") for entry in entries):
                    return True
        except (FileNotFoundError, NotADirectoryError):
            continue
    return False
