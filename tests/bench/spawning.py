"""What starting programs costs while a target names programs: fork, exec, exit, in alternating rounds."""

import contextlib
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.bench.rounds import quiet
from tests.bench.variants import daemon, tattle
from tests.bench.world import command

PROGRAM = "/bin/true"
TARGET = "exe:bench-nothing-is-called-so"
"""Names a program, so that exec, fork and exit are followed; no program of this host is meant."""
BATCHES, BATCH = 30, 40
VARIANTS = ("none", "tattle", "program target")


def spawned() -> float:
    """Return the CPU time, in ns, of starting a program and waiting for its end: of parent and child."""

    def spent() -> float:
        own, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return (own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime) * 1e9

    samples = []
    for _ in range(BATCHES):
        before = spent()
        for _ in range(BATCH):
            os.waitpid(os.posix_spawn(PROGRAM, [PROGRAM], {}), 0)
        samples.append((spent() - before) / BATCH)
    return quiet(samples)


def alternate(rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Measure all variants, round by round: no daemon, a daemon, one with a target that names a program."""
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    cores = os.sched_getaffinity(0)
    for number in range(rounds):
        say(f"starting programs, round {number + 1} of {rounds}")
        for name in VARIANTS if number % 2 == 0 else VARIANTS[::-1]:
            with _in_place(name):
                os.sched_setaffinity(0, {max(cores)})
                found[name].append(spawned())
                os.sched_setaffinity(0, cores)
    return found


@contextlib.contextmanager
def _in_place(name: str) -> Iterator[None]:
    if name == "none":
        yield
        return
    with daemon():
        if name == "program target":
            command(*tattle("block", TARGET))
        yield
        if name == "program target":
            command(*tattle("unblock", TARGET))


def rows(samples: Mapping[str, Sequence[float]]) -> list[tuple[str, ...]]:
    """Show what starting a program takes, by variant."""
    return [(name, f"{quiet(samples[name]) / 1000:,.1f}") for name in VARIANTS]


HEAD = ("variant", "us of CPU a program (lower quartile)")
