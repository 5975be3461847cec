"""Both engines: what a start costs, how large the programs become, and which promises they keep."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.variants import daemon

STARTS = 5
PROJECT = Path(__file__).resolve().parents[2]
PROMISES = ("engine", "scenarios", "who")
"""Kernel tests that both engines are put to, as `make test` does."""
MADE = """
import json, resource, sys
from tracer.bpf.engine import Engine, EngineOptions
with Engine.open(EngineOptions(instance="bench-engines", pin=False, engine=sys.argv[1])) as engine:
    programs = {hook: program for hook, (_link, program) in engine.links().items()}
    print(json.dumps([programs, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Figures:
    """One engine's figures; `instructions` by hook, after the verifier took out what is never run."""

    start_s: float
    daemon_peak_mib: float
    compiler_peak_mib: float
    instructions: dict[str, int]
    passed: int
    of: int


def figures(engine: str) -> Figures:
    """Start the daemon some times, load the programs once, run the tests."""
    starts = [_start(engine) for _ in range(STARTS)]
    compiler, instructions = _programs(engine)
    passed, of = _promises(engine)
    seconds, peaks = zip(*starts, strict=True)
    return Figures(median(seconds), median(peaks), compiler, instructions, passed, of)


def _start(engine: str) -> tuple[float, float]:
    """Give seconds from exec to readiness, and the daemon's highest memory until then, in MiB."""
    begun = time.monotonic()
    with daemon("--engine", engine) as running:
        seconds = time.monotonic() - begun
        status = Path(f"/proc/{running.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found
    return seconds, int(found[1]) / 1024


def _programs(engine: str) -> tuple[float, dict[str, int]]:
    """Load once; give the compiler's memory in MiB, and each hook's instructions by bpftool."""
    command = [sys.executable, "-c", MADE, engine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT) as process:
        assert process.stdout
        ids, peak = json.loads(process.stdout.readline())
        words = {name: ["bpftool", "-j", "prog", "show", "id", str(number)] for name, number in ids.items()}
        sizes = {
            name: json.loads(subprocess.check_output(asked))["bytes_xlated"] for name, asked in words.items()
        }
        process.communicate()
    return peak, {name: size // 8 for name, size in sizes.items()}


def _promises(engine: str) -> tuple[int, int]:
    """Run the tests with this engine; how many passed, of how many."""
    paths = [f"tests/kernel/test_{name}.py" for name in PROMISES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *paths],
        cwd=PROJECT,
        env={**os.environ, "TATTLE_TEST_ENGINE": engine},
        capture_output=True,
        text=True,
        check=False,
    )
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    return counts.get("passed", 0), sum(counts.values())


HEAD = ("", "libbpf", "bcc")


def rows(measured: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Give the table's lines, an engine a column."""
    both = [measured[name] for name in HEAD[1:]]
    lines = [
        ("start to readiness, s", *(f"{one['start_s']:.2f}" for one in both)),
        ("daemon, highest memory, MiB", *(f"{one['daemon_peak_mib']:.0f}" for one in both)),
        ("compiler beside it at the start, MiB", *(f"{one['compiler_peak_mib']:.0f}" for one in both)),
        ("kernel tests passed", *(f"{one['passed']} of {one['of']}" for one in both)),
    ]
    hooks = both[0]["instructions"]
    lines += [
        (f"instructions: {hook}", *(f"{one['instructions'][hook]:,}" for one in both)) for hook in hooks
    ]
    return lines
