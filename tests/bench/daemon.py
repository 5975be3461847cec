"""What the daemon itself costs: memory, start, idle time, events decoded, scrapes."""

import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.measure import load
from tests.bench.variants import Daemon, daemon, free_port, tattle
from tests.bench.world import World

IDLE_SECONDS = 20
SCRAPES = 5


@dataclass(frozen=True)
class Figures:
    """The daemon's figures, each with its unit in its name."""

    resident_mib_at_10000_flows: float
    start_to_first_fact_s: float
    start_to_first_fact_cpu_s: float
    idle_percent_of_a_core: float
    events_per_cpu_second: float
    events_lost: float
    scrape_cpu_s_at_50000_flows: float
    resident_mib_at_50000_flows: float


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, its ended threads included, to the nanosecond.

    The clock of another process, as clock_getcpuclockid(3) builds its number (CPUCLOCK_SCHED,
    include/linux/posix-timers_types.h).
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident_mib(pid: int) -> float:
    """Resident memory (proc(5), VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("bench: the daemon has ended")


def make_flows(world: World, running: Daemon, count: int) -> None:
    """Send a datagram to each of so many destinations; ends the bench if the daemon knows fewer."""
    load("udp-many", world.roads[0], "-n", str(count), "-o", str(count), "-r", "20000")
    known = counted(running.scrape(), 'tattle_map_entries{map="flows"}')
    if known < count:
        raise SystemExit(f"bench: the daemon counts {known:.0f} flows of {count}")


def counted(metrics: str, name: str) -> float:
    """Sum up all series of a metric, or take the one whose labels are given."""
    lines = (line for line in metrics.splitlines() if line.startswith((name + " ", name + "{")))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@contextmanager
def _talker(world: World) -> Iterator[None]:
    """Connect 1,000 times a second, all the time: the first fact is there to be seen."""
    words = ("-k", "tcp-connect", *world.roads[0].arguments, "-o", "100000000", "-r", "1000")
    with subprocess.Popen([str(Path(__file__).parent / "build/load"), *words]) as process:
        try:
            yield
        finally:
            process.kill()


def start_to_first_fact(world: World) -> tuple[float, float]:
    """Give seconds, and CPU seconds, from exec of the command to the first line of the event log."""
    listen = f"127.0.0.1:{free_port()}"
    words = tattle("run", "--listen", listen, "--log-file", "-")
    with _talker(world):
        start = time.monotonic()
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout
            readable = select.select([process.stdout], [], [], 30)[0]
            line = process.stdout.readline() if readable else b""
            seconds, spent = time.monotonic() - start, cpu_seconds(process.pid)
            process.terminate()
            process.stdout.read()
    if not line.startswith(b"{"):
        raise SystemExit("bench: no event came from a starting daemon")
    return seconds, spent


def idle_percent(running: Daemon) -> float:
    """CPU time of a daemon with nothing to tell, % of one core."""
    before, start = cpu_seconds(running.process.pid), time.monotonic()
    time.sleep(IDLE_SECONDS)
    return (cpu_seconds(running.process.pid) - before) / (time.monotonic() - start) * 100


def scrape_seconds(world: World, running: Daemon, flows: int) -> float:
    """CPU time of one scrape, the daemon's whole work of that while."""
    costs = []
    make_flows(world, running, flows)
    for _ in range(SCRAPES):
        before = cpu_seconds(running.process.pid)
        running.scrape()
        costs.append(cpu_seconds(running.process.pid) - before)
    return median(costs)


def decoded_per_second(world: World, running: Daemon, log: Path) -> tuple[float, float]:
    """Events written to the log per second of the daemon's CPU time, and events lost meanwhile."""
    lost = counted(running.scrape(), "tattle_events_lost_total")
    before, size = cpu_seconds(running.process.pid), log.stat().st_size
    load("tcp-connect", world.roads[0], "-o", "20000", "-r", "5000")
    _settle(log)
    spent = cpu_seconds(running.process.pid) - before
    with log.open("rb") as file:
        file.seek(size)
        events = sum(1 for _ in file)
    return events / spent, counted(running.scrape(), "tattle_events_lost_total") - lost


def _settle(log: Path) -> None:
    """Wait until the log has not grown for half a second, at most 30 s."""
    size, deadline = -1, time.monotonic() + 30
    while size != log.stat().st_size and time.monotonic() < deadline:
        size = log.stat().st_size
        time.sleep(0.5)


def figures(world: World, scratch: Path) -> Figures:
    """Measure all, each with a fresh daemon where the one before would disturb."""
    starts = [start_to_first_fact(world) for _ in range(3)]
    log = scratch / "events.json"
    with daemon(log=str(log)) as running:
        idle = idle_percent(running)
        events, lost = decoded_per_second(world, running, log)
    with daemon() as running:
        make_flows(world, running, 10_000)
        at_10000 = resident_mib(running.process.pid)
    with daemon() as running:
        scrape = scrape_seconds(world, running, 50_000)
        at_50000 = resident_mib(running.process.pid)
    first, first_cpu = (median(column) for column in zip(*starts, strict=True))
    return Figures(at_10000, first, first_cpu, idle, events, lost, scrape, at_50000)
