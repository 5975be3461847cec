"""Alternating rounds of loads under each variant, and the kernel's own clock of its BPF programs."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.variants import HERE, Variant
from tests.bench.world import Road, World, command

LOAD_CPU = 1
"""Both ends of a load run here; daemons are left to the scheduler, which has the other cores."""
TWO_CORES = " on 2 cores"
ONE_END = " at one end"
"""Kinds with this ending have the server on the other core, and the wall clock is read."""
SERVER_CPU = 0
PATIENCE_SECONDS = int(os.environ.get("BENCH_PATIENCE", "300"))
"""How long to wait in all until nobody else's hooks are in the way; then go on, and say so."""
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")

Samples = dict[str, dict[str, dict[str, list[float]]]]
"""Road -> kind -> variant -> ns of CPU time per operation, one number a round."""
ProgramCosts = dict[str, dict[str, dict[str, dict[str, list[float]]]]]
"""Road -> kind -> variant -> program -> [runs per operation, ns per run]."""


def load(kind: str, road: Road, *more: str) -> dict[str, float]:
    """Run the load generator once. Ends the bench if an operation failed."""
    if kind.endswith(TWO_CORES):
        return load(kind.removesuffix(TWO_CORES), road, "-q", str(SERVER_CPU), *more)
    if kind.endswith(ONE_END):
        return load(kind.removesuffix(ONE_END), road, "-w", *more)
    words = (str(HERE / "build/load"), "-k", kind, "-p", str(LOAD_CPU), *road.arguments, *more)
    return dict(json.loads(command(*words)))


def figure(kind: str) -> str:
    """Which of the load generator's figures is the cost."""
    return "wall_ns" if kind.endswith(TWO_CORES) else "cpu_ns"


def _plain(nested: Any) -> Any:  # noqa: ANN401 - any depth of mappings
    """Make dicts of defaultdicts: what was not measured must be a KeyError from here on."""
    if not isinstance(nested, dict):
        return nested
    return {key: _plain(value) for key, value in nested.items()}


@dataclass
class Bench:
    """What all parts need: the world, how long a load takes, whom to tell; and what disturbed."""

    world: World
    milliseconds: int
    tell: Callable[[str], None]
    disturbed: int = 0
    patience: float = PATIENCE_SECONDS


def alternate(bench: Bench, variants: Sequence[Variant], count: int) -> Samples:
    """Measure A B C D A B C D ...: neighbours' noise that changes slowly hits all variants alike."""
    samples: Samples = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for turn in range(count):
        for variant in variants:
            bench.tell(f"round {turn + 1} of {count}: {variant.name}")
            for (road, kind), cost in _undisturbed(bench, variant).items():
                samples[road][kind][variant.name].append(cost)
    made: Samples = _plain(samples)
    return made


def _undisturbed(bench: Bench, variant: Variant) -> dict[tuple[str, str], float]:
    """Run all loads of a variant, once more if somebody else's hooks came meanwhile."""
    while True:
        _wait_for_others(bench)
        costs = {}
        with variant.enter(bench.world):
            for road, kind in _cases(bench.world, variant):
                costs[road.name, kind] = load(kind, road, *_how(variant, bench.milliseconds))[figure(kind)]
        if not _hooks_of_others(bench.world):
            return costs
        if bench.patience <= 0:
            bench.disturbed += 1
            return costs


def _wait_for_others(bench: Bench) -> None:
    while bench.patience > 0 and _hooks_of_others(bench.world):
        bench.tell(f"waiting: others' BPF programs are attached to {bench.world.cgroup_root}")
        bench.patience -= 1
        time.sleep(1)


def _hooks_of_others(world: World) -> list[object]:
    """Programs at the root of the cgroups: they would be measured, too."""
    return list(
        json.loads(command("bpftool", "-j", "cgroup", "show", str(world.cgroup_root)).strip() or "[]")
    )


def _how(variant: Variant, milliseconds: int) -> tuple[str, ...]:
    return ("-t", str(milliseconds), *(("-e",) if variant.denied else ()))


def _cases(world: World, variant: Variant) -> Iterator[tuple[Road, str]]:
    for road in world.roads:
        if road.name in variant.roads:
            for kind in variant.kinds:
                yield road, kind


@contextmanager
def _statistics() -> Iterator[None]:
    """Let the kernel time each run of each program (Documentation/admin-guide/sysctl/kernel.rst)."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def _programs() -> dict[int, tuple[str, int, int]]:
    """Id -> name, runs, ns of all loaded programs."""
    listed = json.loads(command("bpftool", "-j", "prog", "show"))
    return {p["id"]: (p.get("name", "?"), p.get("run_cnt", 0), p.get("run_time_ns", 0)) for p in listed}


def program_costs(bench: Bench, variants: Sequence[Variant]) -> ProgramCosts:
    """Time the programs themselves: less noisy than their effect on a load, but blind to the hook's cost."""
    costs: ProgramCosts = defaultdict(lambda: defaultdict(dict))
    for variant in variants:
        bench.tell(f"program times: {variant.name}")
        foreign = set(_programs())
        with variant.enter(bench.world), _statistics():
            own = set(_programs()) - foreign
            for road, kind in _cases(bench.world, variant):
                before = _programs()
                operations = load(kind, road, *_how(variant, bench.milliseconds))["operations"]
                costs[road.name][kind][variant.name] = _difference(before, _programs(), own, operations)
    made: ProgramCosts = _plain(costs)
    return made


def _difference(
    before: dict[int, tuple[str, int, int]],
    after: dict[int, tuple[str, int, int]],
    own: set[int],
    operations: float,
) -> dict[str, list[float]]:
    moved: dict[str, list[float]] = {}
    for number, (name, runs, spent) in after.items():
        _, runs_before, spent_before = before.get(number, (name, 0, 0))
        ran = runs - runs_before
        if number in own and ran > operations / 100:
            key = name.removeprefix("empty_")
            moved[key] = [round(ran / operations, 3), round((spent - spent_before) / ran, 1)]
    return moved
