"""The engine: loads the programs, attaches them in the right order, pins them, and takes them away again.

Order matters: cgroups are followed before their tree is read, and sockets are followed from the socket
hooks on before the existing ones are taken in, so that none falls between. Packets are counted last,
when everybody can be named.

What is pinned outlives a daemon that is killed: a successor with the same structures and map sizes
takes the maps over and puts its programs behind the existing links, so that counters go on and no
packet is missed. Else it attaches its own, starting at zero, before it removes the old ones.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from tracer.bpf import inventory, libbpf
from tracer.bpf.hooks import (
    CGROUPS,
    HOOKS,
    MOVES,
    ON_DEMAND,
    PACKETS,
    PROCESSES,
    PROGRAMS,
    SOCKETS,
    Hook,
    HookSpec,
    Kind,
)
from tracer.bpf.loader import programs
from tracer.bpf.maps.tables import Maps
from tracer.bpf.ringbuf import Notices, Ring
from tracer.bpf.samples import Samples
from tracer.errors import DaemonAbsent, InstanceBusy, KernelError, NoBpffs
from tracer.host import capabilities, cgroups
from tracer.host.files import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from tracer.bpf.abi import Abi
    from tracer.host.cgroups import InstancePaths

OBJECT: Final = Path(__file__).parents[1] / "objects" / "tattle.bpf.o"
FLUSH: Final = "flush"
FILL: Final = "fill"
INVENTORY: Final = "inventory"


@dataclass(frozen=True)
class EngineOptions:
    """What to load and how large: entries of maps, bytes of the ring (a power of two of whole pages).

    `allow_missing` names hooks without which to go on where the kernel refuses them. `statistics` lets
    the kernel count runs and time of the programs, which costs each of them some 20 ns. `engine` is who
    makes the programs: libbpf from the compiled object, or bcc from the sources.
    """

    instance: str = "tattle"
    pin: bool = True
    allow_missing: frozenset[str] = field(default_factory=frozenset)
    flows_max: int = 65536
    processes_max: int = 16384
    cgroups_max: int = 8192
    sockets_max: int = 32768
    ring_bytes: int = 2 << 20
    loopback: bool = False
    statistics: bool = False
    engine: str = "libbpf"
    object_path: Path | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """max_entries by map."""
        return {
            "flows": self.flows_max,
            "processes": self.processes_max,
            "cgroups": self.cgroups_max,
            "slots": self.sockets_max,
            "free_slots": self.sockets_max,
            "events": self.ring_bytes,
        }


class Engine:
    """Programs and maps in the kernel, held by descriptors and pins; a context manager."""

    def __init__(self, abi: Abi, paths: InstancePaths, root: Path, *, owner: bool) -> None:
        self.abi = abi
        self.adopted = False
        self.object_sha256 = ""
        self._paths = paths
        self._root = root
        self._owner = owner
        self._pinned: set[str] = set()
        self._late: set[int] = set()
        self._closed: Counter[int] = Counter()  # numbers are used again
        self._links: dict[str, int] = {}
        self._programs: dict[str, int] = {}
        self._map_fds: dict[str, int] = {}
        self._attach_types: dict[str, int] = {}
        self._resources = contextlib.ExitStack()
        self.lock = -1  # the descriptor that says that this instance runs; -1: not here
        self.maps: Maps

    @classmethod
    def open(cls, options: EngineOptions, prepare: Callable[[Engine], None] | None = None) -> Engine:
        """Load, attach and pin; HostError or ObjectError where that cannot be, and then nothing is left.

        `prepare` is called when cgroups are followed and nothing else is attached yet: what it writes into
        the maps is in force from the first call and packet on, and before a predecessor is let go.
        """
        capabilities.require_loading()
        _raise_memory_limit()
        root = cgroups.cgroup2_root()
        paths = cgroups.instance_paths(options.instance, cgroups.bpffs_root())
        chosen = programs.choose(options.engine, options.object_path or OBJECT)
        engine = cls(chosen.abi, paths, root, owner=True)
        engine.object_sha256 = chosen.sha256
        with engine._resources:
            if options.pin:
                engine._hold_lock()
            engine._load(chosen, options)
            engine._attach_all(options, prepare)
            engine._resources = engine._resources.pop_all()
        return engine

    @classmethod
    def attach_readonly(cls, instance: str = "tattle") -> Engine:
        """Open what a daemon has pinned; DaemonAbsent where there is nothing. Closing leaves it in place."""
        nothing = DaemonAbsent(f"nothing of instance {instance} is loaded", "start it: tattle run")
        try:
            paths = cgroups.instance_paths(instance, cgroups.bpffs_root(mount=False))
        except NoBpffs:
            raise nothing from None
        with contextlib.ExitStack() as stack:
            pins = _open_pins(paths, stack)
            if "flows" not in pins.maps:
                raise nothing
            engine = cls(programs.abi_of(pins.maps), paths, cgroups.cgroup2_root(), owner=False)
            engine._links, engine._programs, engine._map_fds = pins
            engine._make_maps(paths)
            engine._resources = stack.pop_all()
        return engine

    @property
    def missing(self) -> tuple[str, ...]:
        """The hooks that are not there."""
        return tuple(spec.hook for spec in HOOKS if spec.hook not in self._links)

    def ring(self) -> Ring:
        """Map the event ring; the caller closes it. A ring has one reader: the daemon."""
        return Ring(self._map_fds["events"], self.abi.event)

    def notices(self) -> Notices:
        """Map the ring of notices, likewise: what they tell stands in the tables, too."""
        return Notices(self._map_fds["notices"], self.abi.notice)

    def samples(self) -> Samples:
        """Map the ring of samples, likewise."""
        return Samples(self._map_fds["samples"], self.abi.sample)

    def hooks(self) -> list[Hook]:
        """Ask the kernel what is attached and how often it ran: nothing here is remembered."""
        here = cgroups.cgroup_id(self._root)
        with contextlib.ExitStack() as stack:
            marking = self._marking_links(stack)
            wanted = [spec for spec in ON_DEMAND if spec.hook in self._wanted() | marking.keys()]
            return [self._hook(spec, here, marking) for spec in (*HOOKS, *wanted)]

    def _marking_links(self, stack: contextlib.ExitStack) -> dict[str, int]:
        """Open the links of what marks processes as they are now: another process may have made them."""
        found = {spec.hook: self._links[spec.hook] for spec in ON_DEMAND if spec.hook in self._links}
        for spec in ON_DEMAND:
            fd = libbpf.open_pin(self._paths.pins / spec.hook) if self._is_pinned else None
            if fd is not None:
                stack.callback(os.close, fd)
                found[spec.hook] = fd
        return found

    def _wanted(self) -> set[str]:
        """Say which hooks the kernel half's settings need."""
        settings = self.maps.settings
        specs = PROCESSES if settings.marking else ()
        return {spec.hook for spec in (*specs, *(MOVES if settings.policed else ()))}

    @property
    def follows_processes(self) -> bool:
        """Whether programs are matched when they are executed, and their children marked."""
        with contextlib.ExitStack() as stack:
            found = self._marking_links(stack)
            return all(spec.hook in found for spec in (*PROCESSES, *PROGRAMS))

    def follow_processes(self, *, programs: bool, moves: bool = False) -> None:
        """Attach what marks processes, as far as it is not, or take it away.

        `programs`: a target names programs. `moves`: what is in a target's cgroup stays in it when it leaves.
        KernelError where the kernel refuses it; what is pinned outlives this process.
        """
        wanted = (
            *(PROCESSES if programs or moves else ()),
            *(PROGRAMS if programs else ()),
            *(MOVES if moves else ()),
        )
        with contextlib.ExitStack() as stack:
            found = self._marking_links(stack)
            for spec in wanted:
                if spec.hook not in found or not self._is_ours(spec, found[spec.hook]):
                    self._attach_marking(spec)
        for spec in ON_DEMAND:
            if spec not in wanted:
                self._detach(spec.hook)

    def _is_ours(self, spec: HookSpec, link: int) -> bool:
        """Say whether a link runs the program that we hold: a predecessor's ends with it."""
        known = self._programs.get(spec.program)
        return known is None or libbpf.link_info(link).program_id == libbpf.program_info(known).id

    def _attach_marking(self, spec: HookSpec) -> None:
        if spec.program not in self._programs:
            raise KernelError(
                f"processes cannot be told apart here: this kernel refuses {spec.program}",
                "name a cgroup, a unit or a container instead",
                hook=spec.hook,
            )
        link = libbpf.link_raw_tracepoint(spec.hook, self._programs[spec.program], spec.hook)
        self._links[spec.hook] = self._own(link)
        self._late.add(link)
        if self._is_pinned:
            libbpf.pin(link, self._paths.pins / spec.hook)
            self._pinned.add(spec.hook)

    def _detach(self, hook: str) -> None:
        link = self._links.pop(hook, None)
        if link in self._late:  # others are closed with all that was opened; this process ends soon
            self._late.discard(link)
            os.close(link)
            self._closed[link] += 1
        if self._is_pinned:
            (self._paths.pins / hook).unlink(missing_ok=True)
            self._pinned.discard(hook)

    @property
    def _is_pinned(self) -> bool:
        return bool(self._pinned) or not self._owner

    def links(self) -> dict[str, tuple[int, int]]:
        """Ask the kernel for the ids of each hook's link and of the program behind it now."""
        found = {hook: libbpf.link_info(fd) for hook, fd in self._links.items()}
        return {hook: (info.id, info.program_id) for hook, info in found.items()}

    def _hook(self, spec: HookSpec, root_id: int, marking: dict[str, int]) -> Hook:
        link = marking.get(spec.hook) or self._links.get(spec.hook)
        if link is None:
            return Hook(spec.hook, "", attached=False, link_id=0, runs=0, run_ns=0)
        info = libbpf.link_info(link)
        attached = spec.kind is not Kind.CGROUP or info.cgroup_id == root_id
        program = self._program(spec.program, info.program_id)
        return Hook(spec.hook, program.name, attached, info.id, program.runs, program.run_ns)

    def _program(self, name: str, number: int) -> libbpf.ProgramInfo:
        """Ask about the program behind a link: ours by its descriptor, a stranger's by its id."""
        known = self._programs.get(name)
        if known is not None and (info := libbpf.program_info(known)).id == number:
            return info
        try:
            fd = libbpf.program_of(number)
        except KernelError as error:
            if error.errno in {errno.EPERM, errno.ENOENT}:
                return libbpf.ProgramInfo(number, "", 0, 0)
            raise
        try:
            return libbpf.program_info(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go; the daemon's engine also detaches and unpins everything, unless a policy is in force.

        May be called twice.
        """
        if self._owner and self._pinned:
            with locked(self._paths.policy_lock):  # nobody puts a policy in force between look and removal
                if not self.maps.enforcing():
                    self.unpin()
        self._pinned.clear()
        self._links.clear()
        self._resources.close()

    def unpin(self) -> None:
        """Remove all pins of the instance: what nobody holds any more is detached and freed."""
        for path in _pins_in(self._paths.pins):
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._paths.pins.rmdir()

    def pinned(self) -> frozenset[str]:
        """Ask the file system which links and maps would outlive everybody who holds them."""
        return frozenset(path.name for path in _pins_in(self._paths.pins))

    @property
    def refused(self) -> tuple[str, ...]:
        """The hooks that have no program: the kernel refused it."""
        return tuple(spec.hook for spec in HOOKS if spec.program not in self._programs)

    @property
    def made_by(self) -> str:
        """Who made the programs that are there: libbpf or bcc."""
        names = {number: name for name, number in self.abi.enums["engine"].items()}
        return names[self.maps.settings.engine].removeprefix("ENGINE_").lower()

    @property
    def paths(self) -> InstancePaths:
        """Where the instance has its pins and files."""
        return self._paths

    @property
    def root(self) -> Path:
        """Where the cgroup v2 hierarchy is mounted."""
        return self._root

    def inventory(self) -> tuple[int, int] | None:
        """Give the program that lists all sockets with their holders, and its attach type."""
        program = self._programs.get(INVENTORY)
        return None if program is None else (program, libbpf.ITERATOR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold_lock(self) -> None:
        self._paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.lock = fd = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._resources.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            name = self._paths.pins.name
            raise InstanceBusy(
                f"another daemon of instance {name} runs (pid {holder})",
                "stop it, or choose another name: --instance NAME",
            ) from None
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def _load(self, chosen: programs.Programs, options: EngineOptions) -> None:
        hooks = {spec.program: spec.hook for spec in (*HOOKS, *ON_DEMAND)}
        with contextlib.ExitStack() as stack:
            old = _open_pins(self._paths, stack) if options.pin else _Pins({}, {}, {})
            allowed = options.allow_missing | {
                spec.hook for spec in ON_DEMAND
            }  # missed where they are needed
            loaded = programs.load(chosen, options.sizes, allowed, hooks, old.maps)
            self._resources.callback(loaded.object.close)
            self.adopted = loaded.adopted
            self._map_fds = {name: loaded.object.map_fd(name) for name in loaded.object.maps}
            self._programs = {name: loaded.object.program_fd(name) for name in loaded.programs}
            self._attach_types = {name: loaded.object.attach_type(name) for name in loaded.programs}
            if self.adopted:
                self._keep_links(old.links)

    def _keep_links(self, links: dict[str, int]) -> None:
        for spec in HOOKS:
            if spec.kind is Kind.CGROUP and spec.hook in links and spec.program in self._programs:
                self._links[spec.hook] = self._own(os.dup(links[spec.hook]))

    def _own(self, fd: int) -> int:
        self._resources.callback(self._let_go, fd)
        return fd

    def _let_go(self, fd: int) -> None:
        if self._closed[fd]:
            self._closed[fd] -= 1
        else:
            os.close(fd)

    def _attach_all(self, options: EngineOptions, prepare: Callable[[Engine], None] | None) -> None:
        self._make_maps(self._paths if options.pin else None)
        if options.statistics:
            self._own(libbpf.enable_statistics())
        if not self.adopted:
            self.maps.fill_free_slots(self._programs[FILL])
        self._tell(options)
        root = self._own(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        allowed = options.allow_missing
        self._attach(CGROUPS, root, allowed)
        self._fill_cgroups()
        if prepare is not None:
            prepare(self)
        self._attach(SOCKETS, root, allowed)
        if INVENTORY in self._programs:
            kind = self._attach_types[INVENTORY]
            inventory.take_in(self.maps, self.abi, self._programs[INVENTORY], kind)
        self._attach(PACKETS, root, allowed)
        if options.pin:
            self._pin_all()

    def _make_maps(self, paths: InstancePaths | None) -> None:
        lock = paths.flush_lock if paths else None
        self.maps = Maps(self.abi, self._map_fds, self._programs.get(FLUSH), lock)

    def _tell(self, options: EngineOptions) -> None:
        # A quarter of the ring: far above what comes between two drains, far below a loss.
        self.maps.settings = self.maps.settings._replace(
            loopback=int(options.loopback),
            wake_bytes=options.ring_bytes // 4,
            ported_max=options.flows_max // 2,
            engine=self.abi.enums["engine"][f"ENGINE_{options.engine.upper()}"],
        )

    def _fill_cgroups(self) -> None:
        for number, path in cgroups.walk_cgroups(self._root):
            try:
                self.maps.add_cgroup(number, path)
            except KernelError as error:
                if error.errno != errno.E2BIG:
                    raise
                self.maps.add_loss("cgroups_full")

    def _attach(self, specs: tuple[HookSpec, ...], root: int, allowed: frozenset[str]) -> None:
        for spec in specs:
            if spec.program not in self._programs:
                continue
            try:
                self._attach_one(spec, root)
            except KernelError as error:
                if spec.hook not in allowed:
                    error.hint = error.hint or f"--allow-missing {spec.hook}"
                    raise

    def _attach_one(self, spec: HookSpec, root: int) -> None:
        program = self._programs[spec.program]
        kept = self._links.pop(spec.hook, None)
        if kept is not None and libbpf.link_info(kept).cgroup_id:
            libbpf.link_update(spec.hook, kept, program)
            self._links[spec.hook] = kept
        elif spec.kind is Kind.CGROUP:
            kind = self._attach_types[spec.program]
            self._links[spec.hook] = self._own(libbpf.link_cgroup(spec.hook, program, root, kind))
        else:
            self._links[spec.hook] = self._own(libbpf.link_raw_tracepoint(spec.hook, program, spec.hook))

    def _pin_all(self) -> None:
        """Pin everything in place of a predecessor's, then remove what only the predecessor had."""
        pins = self._paths.pins
        pins.mkdir(mode=0o700, exist_ok=True)
        later = (FLUSH, INVENTORY, *(spec.program for spec in ON_DEMAND))
        unhooked = {name: self._programs[name] for name in later if name in self._programs}
        for name, fd in (self._map_fds | self._links | unhooked).items():
            libbpf.pin(fd, pins / name)
            self._pinned.add(name)
        for left in pins.iterdir():
            if left.name not in self._pinned:
                left.unlink()


class _Pins(NamedTuple):
    links: dict[str, int]
    programs: dict[str, int]
    maps: dict[str, int]


def _raise_memory_limit() -> None:
    """5.10 charges BPF memory to this limit (changed in 5.11), where the usual 8 MiB would not do.

    Without CAP_SYS_RESOURCE it cannot be raised: then the kernel says later whether it matters.
    """
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _open_pins(paths: InstancePaths, stack: contextlib.ExitStack) -> _Pins:
    pins = _Pins({}, {}, {})
    for path in _pins_in(paths.pins):
        fd = libbpf.open_pin(path)
        if fd is not None:
            stack.callback(os.close, fd)
            kind = libbpf.kind_of(fd)
            {"link": pins.links, "prog": pins.programs, "map": pins.maps}[kind][path.name] = fd
    return pins


def _pins_in(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(directory.iterdir())
