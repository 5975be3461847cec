"""`make bench`: what watching costs, against no hooks, empty hooks and nftables."""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import engines, goals, report, spawning
from tests.bench.daemon import figures
from tests.bench.measure import Bench, alternate, program_costs
from tests.bench.rounds import quartiles
from tests.bench.variants import BLOCKING, HERE, KERNEL_HALF, TRACING, Variant, build
from tests.bench.world import built

RESULTS = HERE / "results"
ENGINES = "both engines"
PARTS = ("loads", "programs", "blocking", "spawning", "daemon", "engines")


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of all variants (15)")
    parser.add_argument("--milliseconds", type=int, default=120, help="length of one load (120)")
    parser.add_argument("--kernel-half", action="store_true", help="attach the object only, no daemon")
    parser.add_argument("--objects", nargs="+", type=Path, help="compare these builds, too (no daemon)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--kinds", nargs="+", help="only these loads")
    parser.add_argument("--roads", nargs="+", choices=("veth", "loopback"), help="only these paths")
    parser.add_argument("--variants", nargs="+", help="only these variants")
    parser.add_argument("--no-results", action="store_true", help="write no files")
    return parser.parse_args(words)


def chosen(variants: Sequence[Variant], args: argparse.Namespace) -> list[Variant]:
    """Keep what the command line asks for."""
    kept = []
    for variant in variants:
        if args.variants and variant.name not in (*args.variants, *map(str, args.objects or ())):
            continue
        kinds = tuple(kind for kind in variant.kinds if not args.kinds or kind in args.kinds)
        roads = tuple(road for road in variant.roads if not args.roads or road in args.roads)
        kept.append(Variant(variant.name, variant.enter, kinds, roads, variant.denied))
    return kept


def cpu_model() -> str:
    """Give the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def cpu_times() -> list[int]:
    """Ticks by state since boot (proc(5), /proc/stat); the eighth is stolen time."""
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]


def machine(before: Sequence[int], load_average: float, samples: dict[str, Any]) -> dict[str, Any]:
    """Describe where and how quietly this was measured."""
    spent = [now - then for now, then in zip(cpu_times(), before, strict=True)]
    floors = [
        quartiles(cell["none"]) for road in samples.values() for cell in road.values() if "none" in cell
    ]
    apart = [100 * (floor.high - floor.low) / floor.value for floor in floors]
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "load_average": load_average,
        "stolen_percent": 100 * spent[7] / (sum(spent) or 1),
        "noise_percent": quartiles(apart).value if apart else 0.0,
    }


def run_all(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure what was asked for; each part's raw numbers by its name."""
    before, load_average = cpu_times(), os.getloadavg()[0]
    results: dict[str, Any] = {"samples": {}}
    with built() as world, console.status("building") as status, tempfile.TemporaryDirectory() as scratch:
        bench = Bench(world, args.milliseconds, status.update)
        _run_parts(args, bench, results)
        if "spawning" in args.only and not args.kernel_half:
            results["spawning"] = spawning.alternate(args.rounds, status.update)
        if "daemon" in args.only and not args.kernel_half:
            status.update("the daemon's own cost (a minute)")
            results["daemon"] = asdict(figures(world, Path(scratch)))
    if "engines" in args.only and not args.kernel_half:
        with console.status("both engines (some minutes)"):
            results["engines"] = {name: asdict(engines.figures(name)) for name in engines.HEAD[1:]}
    results["machine"] = machine(before, load_average, results["samples"]) | {"disturbed": bench.disturbed}
    return results


def _run_parts(args: argparse.Namespace, bench: Bench, results: dict[str, Any]) -> None:
    variants = chosen(KERNEL_HALF if args.kernel_half else TRACING, args)
    variants += chosen([build(path) for path in args.objects or ()], args)
    blocking = [] if args.kernel_half or "blocking" not in args.only else chosen(BLOCKING, args)
    if "loads" in args.only:
        results["samples"] = alternate(bench, variants, args.rounds)
    if blocking:
        results["blocking"] = alternate(bench, blocking, args.rounds)
    if "programs" in args.only:
        timed = [v for v in variants if not v.name.startswith(("none", "nft"))]
        timed += [v for v in blocking if v.name.startswith(("block", "IPAddress"))]
        results["programs"] = program_costs(bench, timed)


def tables(results: dict[str, Any]) -> list[tuple[str, Sequence[str], report.Rows]]:
    """All tables of a run."""
    made: list[tuple[str, Sequence[str], report.Rows]] = []
    for road, kinds in results["samples"].items():
        made.append((f"{road}: CPU time of both ends", report.LOAD_HEAD, report.load_rows(kinds)))
    for road, kinds in results.get("programs", {}).items():
        made.append((f"{road}: time in BPF programs", report.PROGRAM_HEAD, report.program_rows(kinds)))
    for road, kinds in results.get("blocking", {}).items():
        made.append((f"{road}: blocking", report.LOAD_HEAD, report.load_rows(kinds)))
    if "spawning" in results:
        made.append(("starting programs", spawning.HEAD, spawning.rows(results["spawning"])))
    if "daemon" in results:
        made.append(("daemon", ("figure", "value"), [(k, f"{v:,.3f}") for k, v in results["daemon"].items()]))
    if "engines" in results:
        made.append((ENGINES, engines.HEAD, engines.rows(results["engines"])))
    verdicts = list(judged(results))
    if verdicts:
        made.append(("promises", report.GOAL_HEAD, report.goal_rows(verdicts)))
    return made


def judged(results: dict[str, Any]) -> list[goals.Verdict]:
    """Judge the promises where all that they need was measured."""
    verdicts: list[goals.Verdict] = []
    for name, judge in (("samples", goals.tracing), ("blocking", goals.blocking)):
        try:
            verdicts += judge(results[name]["veth"])
        except KeyError:  # a part was left out by the command line
            continue
    if "spawning" in results:
        verdicts += goals.spawning(results["spawning"])
    return verdicts


def write(results: dict[str, Any], made: list[tuple[str, Sequence[str], report.Rows]]) -> None:
    """Keep the run: raw numbers for those who doubt, tables for those who read."""
    RESULTS.mkdir(exist_ok=True)
    measured = results.keys() - {"samples", "machine"}
    alone = next(iter(measured)) if not results["samples"] and measured <= {"engines", "spawning"} else ""
    part = f"-{alone}" if alone else ""
    name = f"{results['machine']['date'][:10]}-{results['machine']['kernel']}{part}.json"
    (RESULTS / name).write_text(json.dumps(results, indent=1) + "\n")
    lines = "\n".join(f"{line}  " for line in report.machine_lines(results["machine"]))
    head = f"{lines}\nRaw numbers: [{name}]({name})\n\n"
    pages = {"ENGINES": [table for table in made if table[0] == ENGINES]}
    rest = "SPAWNING" if alone == "spawning" else "LATEST"
    pages[rest] = [table for table in made if table[0] != ENGINES]
    for page, some in pages.items():
        if some:
            text = "\n".join(report.markdown(*table) for table in some)
            (RESULTS / f"{page}.md").write_text(f"# Bench\n\n{head}{text}")


def main() -> int:
    """Run the bench. Exits 2 without root."""
    args, console = options(), Console()
    if os.geteuid() != 0:
        console.print("bench: needs root\n  type: sudo make bench")
        return 2
    subprocess.run(("make", "-s", "-C", str(HERE)), check=True)
    results = run_all(args, console)
    made = tables(results)
    for line in report.machine_lines(results["machine"]):
        console.print(line)
    for title, head, rows in made:
        report.show(console, title, head, rows)
    if not args.no_results:
        write(results, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
