"""Phases: tells the kernel whose API is known, and asks it what each target is doing now.

The kernel half counts requests in flight by itself (bpf/http.bpf.h); here stand the paths of each runtime,
and what was there before: listening sockets that nobody has counted, also those on loopback that nobody
asked to see until now.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from tracer.bpf import inventory, libbpf
from tracer.bpf.maps.members import MemberMaps
from tracer.errors import KernelError
from tracer.runtimes.profiles import runtimes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tracer.bpf.engine import Engine
    from tracer.runtimes.profiles import PhaseRule, Runtime

log = structlog.get_logger("tattle")

MAPS: Final = ("api_paths", "phased", "phases")
_IN_FLIGHT: Final = ("inference", "pull", "account")  # the first that has a request is the phase: phase_of()
_HEAD_BITS: Final = 32  # a key's first word: the target


class Activity(NamedTuple):
    """What a target does now; `requests` in flight by phase, those that tell none under `idle`.

    `requests` is None where the target's API is not known.
    """

    phase: str
    requests: dict[str, int] | None


UNKNOWN: Final = Activity("unknown", None)


def rules_of(runtime: Runtime) -> tuple[PhaseRule, ...]:
    """Give a runtime's rules, and those of the runtimes that it has as children, its own first."""
    children = [
        one
        for one in runtimes().values()
        if one.name != runtime.name and set(one.find.exes) & set(runtime.find.children)
    ]
    found = {(rule.method, rule.path, rule.prefix): rule for one in children for rule in one.phases}
    found |= {(rule.method, rule.path, rule.prefix): rule for rule in runtime.phases}
    return tuple(found.values())


def lines_of(rule: PhaseRule, room: int) -> tuple[bytes, ...]:
    """Give how the request lines begin that a rule means; a path that is longer than `room` is cut there."""
    line = f"{rule.method} {rule.path}".encode()
    ends = (b"",) if rule.prefix else (b" ", b"?")
    return tuple(dict.fromkeys((line + end)[:room] for end in ends))


class Phases:
    """The maps of phases of one engine: `MAPS`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._maps = engine.maps
        self._abi = engine.abi
        self._names = {
            number: name.removeprefix("PHASE_").lower() for name, number in self._abi.enums["phase"].items()
        }

    def apply(self, runtimes: Mapping[int, Runtime], *, all_of_them: bool = True) -> None:
        """Have the phases of these targets told, by their numbers, as far as their runtimes have any.

        `all_of_them`: and no others. Sockets that are open learn of it with their next packet.
        """
        known = {number: one for number, one in runtimes.items() if one.phases and number < self._room}
        before = self._phased()
        moved = sum(self._tell_paths(number, rules_of(runtime)) for number, runtime in known.items())
        fresh = known.keys() - before
        for number, listeners in self._take_in(fresh).items():
            self._tell(number, phased=True, listeners=listeners)
        gone = before - known.keys() if all_of_them else set()
        for number in gone:
            self._tell(number, phased=False)
        if moved or fresh or gone:
            self._maps.renew_verdicts()

    def name(self, socket: int, phases: Collection[str]) -> None:
        """Say in which phases the name is contacted that was said on a connection, by its cookie."""
        bits = sum(1 << number for number, name in self._names.items() if name in phases)
        libbpf.update(self._maps.fd("named_phases"), struct.pack("<Q", socket), struct.pack("<I", bits))

    def now(self, target: int) -> Activity:
        """Ask the kernel what a target does now; `unknown` where its API is not."""
        shape, value = self._abi.phase_state, self._at("phases", target)
        if target not in self._phased() or value is None:
            return UNKNOWN
        inflight, inner = (
            struct.unpack_from(f"<{len(self._names) - 1}i", value, shape.offset(f"{name}[0]"))
            for name in ("inflight", "inner")
        )
        # A request that a process passes on to its child is one; the child's counts where no other is seen
        counts = [asked if asked > 0 else passed for asked, passed in zip(inflight, inner, strict=True)]
        requests = {self._names[number]: count for number, count in enumerate(counts) if count > 0}
        busy = next((name for name in _IN_FLIGHT if name in requests), None)
        return Activity(busy or self._quiet(target, value), requests)

    def bits(self, target: int) -> int:
        """Return the phases that a target is in, in bits, as phases_of() of bpf/phase.bpf.h; 0: not known."""
        now = self.now(target)
        if now.requests is None:
            return 0
        numbers = {name: number for number, name in self._names.items()}
        busy: list[str] = [name for name in _IN_FLIGHT if name in now.requests]
        return sum(1 << numbers[name] for name in busy or [now.phase])

    def _quiet(self, target: int, value: bytes) -> str:
        """As phase_of() of bpf/phase.bpf.h: nobody listens yet, or only just."""
        shape = self._abi.phase_state
        own, answers = struct.unpack_from("<iI", value, shape.offset("listeners"))
        (since,) = struct.unpack_from("<Q", value, shape.offset("listening_ns"))
        _, before = struct.unpack("<Ii", self._at("phased", target) or bytes(8))
        age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - since
        fresh = since and age_ns < self._abi.enums["limits"]["GRACE_SECONDS"] * 10**9
        return "startup" if fresh or (own + before <= 0 and not answers) else "idle"

    @property
    def _room(self) -> int:
        return self._maps.shape("phased").max_entries

    def _at(self, name: str, target: int) -> bytes | None:
        if target >= self._room:
            return None
        return libbpf.lookup(
            self._maps.fd(name), struct.pack("<I", target), self._maps.shape(name).value_size
        )

    def _phased(self) -> set[int]:
        shape = self._maps.shape("phased")
        return {
            number
            for keys, values in libbpf.batches(self._maps.fd("phased"), 4, shape.value_size)
            for (number,), (told, _) in zip(
                struct.iter_unpack("<I", keys), struct.iter_unpack("<II", values), strict=True
            )
            if told
        }

    def _tell(self, target: int, *, phased: bool, listeners: int = 0) -> None:
        libbpf.update(
            self._maps.fd("phased"), struct.pack("<I", target), struct.pack("<Ii", phased, listeners)
        )

    def _tell_paths(self, target: int, rules: tuple[PhaseRule, ...]) -> bool:
        """Put a target's paths into the kernel's table in place of those it had; False: as they were."""
        room = self._abi.enums["limits"]["PATH_LEN"]
        numbers = {name: number for number, name in self._names.items()}
        wanted = {
            self._key(target, line): struct.pack("<I", numbers[rule.phase])
            for rule in rules
            for line in lines_of(rule, room)
        }
        fd, shape = self._maps.fd("api_paths"), self._maps.shape("api_paths")
        old = [key for key in libbpf.keys(fd, shape.key_size) if key[4:8] == struct.pack("<I", target)]
        present = {key: libbpf.lookup(fd, key, shape.value_size) for key in old}
        for key, value in wanted.items():
            if present.get(key) != value:
                libbpf.update(fd, key, value)
        for key in present.keys() - wanted.keys():
            libbpf.delete(fd, key)
        return present != wanted

    def _key(self, target: int, line: bytes) -> bytes:
        return struct.pack(self._abi.api_path_key.format, _HEAD_BITS + 8 * len(line), target, line)

    def _take_in(self, fresh: set[int]) -> dict[int, int]:
        """Count what listens in targets that were not looked at so far; their sockets get their state."""
        listeners = dict.fromkeys(fresh, 0)
        program = self._engine.inventory()
        members = MemberMaps(self._maps, self._abi).members
        if not fresh or program is None:
            return listeners
        try:
            return listeners | inventory.take_in_targets(self._maps, self._abi, program, fresh, members)
        except KernelError as error:
            log.warning(
                "what was open in new targets before is not seen",
                error=error.message,
                hint="restart tattle",
            )
            return dict.fromkeys(fresh, 1)  # it listens, or will: never `startup` for good
