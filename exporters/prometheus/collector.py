"""The metrics, read from the kernel's maps at each scrape: nothing is counted here.

Names and labels are a contract; `Collector` gives them to `prometheus_client`, which speaks the formats.
"""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from exporters.prometheus.series import Labels, Series, overflow
from tracer import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from prometheus_client.core import Metric

    from exporters.prometheus.series import Book
    from tracer.model.records import Decoder
    from tracer.model.rows import FlowRow
    from tracer.model.status import MapSize, TargetState

# Which loss says that a map was full
_FULL_MAPS: Final = {name: f"{name}_full" for name in ("flows", "processes", "cgroups", "handshakes")}
_WHO: Final = ("target", "process", "destination", "scope", "proto")
_QUIET: Final = ("startup", "idle")
_PHASES: Final = (*_QUIET, "inference", "pull", "account")


class HookState(Protocol):
    """A hook as the kernel tells it now."""

    @property
    def hook(self) -> str: ...  # noqa: D102 - as in the status document
    @property
    def program(self) -> str: ...  # noqa: D102
    @property
    def attached(self) -> bool: ...  # noqa: D102
    @property
    def runs(self) -> int: ...  # noqa: D102
    @property
    def run_ns(self) -> int: ...  # noqa: D102


class Source(Protocol):
    """What a scrape reads."""

    @property
    def closed(self) -> bool: ...  # noqa: D102 - the kernel's maps are gone
    @property
    def lock(self) -> AbstractContextManager[object]: ...  # noqa: D102 - held while flows are read and folded
    def rows(self) -> Sequence[FlowRow]: ...  # noqa: D102
    def overflow(self) -> Iterable[FlowRow]: ...  # noqa: D102
    def losses(self) -> dict[str, int]: ...  # noqa: D102
    def unread(self) -> dict[str, int]: ...  # noqa: D102 - packets that gave no name, by reason
    def unexpected(self, rows: Iterable[FlowRow]) -> dict[str, int]: ...  # noqa: D102 - by target
    @property
    def errors(self) -> Callable[[], dict[str, int]]: ...  # noqa: D102 - what was survived, by part
    @property
    def held(self) -> Callable[[], tuple[dict[str, int], list[int]]]: ...  # noqa: D102 - by reason, and how long
    def sizes(self) -> Sequence[MapSize]: ...  # noqa: D102


class Collector:
    """Yields all metric families; one scrape is one look at the kernel."""

    def __init__(
        self,
        source: Source,
        book: Book,
        decoder: Decoder,
        hooks: Callable[[], Sequence[HookState]],
        targets: Callable[[], Sequence[TargetState]],
    ) -> None:
        self._source = source
        self._book = book
        self._decoder = decoder
        self._hooks = hooks
        self._targets = targets

    def collect(self) -> list[Metric]:
        """Read the kernel once and give the families; none once the source is closed."""
        with self._source.lock:
            return [] if self._source.closed else list(self._families())

    def _families(self) -> Iterator[Metric]:
        rows = self._source.rows()
        series = self._book.fold(rows, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        series += overflow(self._source.overflow(), self._decoder)
        yield from flow_families(series, self._decoder.phase, pid=self._book.pid)
        yield from target_families(self._targets())
        yield unexpected_family(self._source.unexpected(rows))
        losses = self._source.losses()
        yield from map_families(self._source.sizes(), losses)
        yield _counter(
            "events_lost", "Events, lines and records that were lost, by reason.", ["reason"], losses
        )
        yield _counter(
            "names_unread",
            "DNS messages and first words of clients that gave no name, by reason.",
            ["reason"],
            self._source.unread(),
        )
        text = "Faults of its surroundings that the daemon survived, by part."
        yield _counter("errors", text, ["part"], self._source.errors())
        yield from held_families(*self._source.held())
        yield from hook_families(self._hooks())
        yield build_info()


def held_families(reasons: dict[str, int], times: list[int]) -> Iterator[Metric]:
    """Yield how many candidates were held, by reason, and for how long.

    `times`: how many for less than 2^n ms by n, and last the sum in us (bpf/abi.h, `held_times`).
    """
    text = "Cgroups and processes whose packets were dropped until it was known whose they are, by reason."
    yield _counter("held", text, ["reason"], reasons)
    *counts, microseconds = times or [0, 0]
    below, buckets = 0, []
    for power, count in enumerate(counts[:-1]):
        below += count
        buckets.append((str(2**power / 1000), float(below)))
    buckets.append(("+Inf", float(below + (counts[-1] if counts else 0))))
    yield HistogramMetricFamily(
        "tattle_held_seconds", "How long they were held.", buckets=buckets, sum_value=microseconds / 1e6
    )


def unexpected_family(counts: dict[str, int]) -> Metric:
    """Say of each target with a profile how many destinations that one does not name."""
    family = GaugeMetricFamily(
        "tattle_unexpected_destinations",
        "Internet destinations of the target, since the start, that its runtime's profile does not name.",
        labels=["target"],
    )
    for target, count in counts.items():
        family.add_metric([target], count)
    return family


def build_info() -> Metric:
    """Say what runs: version and kernel."""
    family = GaugeMetricFamily("tattle_build_info", "What runs here.", labels=["version", "kernel"])
    family.add_metric([__version__, platform.release()], 1)
    return family


def _family(name: str, text: str, labels: Sequence[str]) -> CounterMetricFamily:
    return CounterMetricFamily(f"tattle_{name}", text, labels=labels)


def _counter(name: str, text: str, labels: list[str], values: dict[str, int]) -> CounterMetricFamily:
    family = _family(name, text, labels)
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def flow_families(series: Sequence[Series], phase: Callable[[int], str], *, pid: bool) -> Iterator[Metric]:
    """Yield the families of traffic: attempts, established, bytes, packets, denied packets."""
    extra = ("pid",) if pid else ()
    attempts = _family(
        "connection_attempts",
        "Connections and datagram flows that were tried.",
        (*_WHO, "direction", "verdict", *extra),
    )
    established = _family(
        "connections_established",
        "Connections whose handshake was finished.",
        (*_WHO, "direction", "verdict", *extra),
    )
    traffic = [
        _family(name, text, (*_WHO, "direction", "phase", *extra))
        for name, text in (
            ("transmit_bytes", "Bytes of IP packets sent, headers included."),
            ("receive_bytes", "Bytes of IP packets received, headers included."),
            ("transmit_packets", "IP packets sent, as on the wire."),
            ("receive_packets", "IP packets received, as on the wire."),
            ("transmit_payload_bytes", "Bytes of data sent, without headers, each byte of TCP once."),
        )
    ]
    dropped = _family("denied_packets", "Packets that were dropped by a policy.", (*_WHO, *extra))
    for one in series:
        _, made, denied, would_deny, denied_packets = one.now
        for verdict, value in (("allowed", one.allowed), ("denied", denied), ("would-deny", would_deny)):
            if value or verdict == "allowed":
                attempts.add_metric(_labels(one.labels, verdict, pid=pid), value)
        established.add_metric(_labels(one.labels, "allowed", pid=pid), made)
        for number, moved in one.traffic.items():
            labels = _labels(one.labels, phase(number), pid=pid)
            for family, value in zip(traffic, moved, strict=True):
                family.add_metric(labels, value)
        if denied_packets:
            dropped.add_metric([*one.labels[:5], *_labels(one.labels, "", pid=pid)[7:]], denied_packets)
    yield from (attempts, established, *traffic, dropped)


def _labels(labels: Labels, last: str, *, pid: bool) -> list[str]:
    return [*labels[:6], last, labels.pid] if pid else [*labels[:6], last]


def target_families(targets: Iterable[TargetState]) -> Iterator[Metric]:
    """Yield what is known of each target now."""
    enforced = GaugeMetricFamily(
        "tattle_target_enforced",
        "Whether the kernel enforces a policy on the target, asked of it at scrape.",
        labels=["target", "mode"],
    )
    processes = GaugeMetricFamily(
        "tattle_target_processes", "Processes in the target.", labels=["target", "mode"]
    )
    members = GaugeMetricFamily(
        "tattle_target_members",
        "What matches the target now: its cgroups, and its processes outside of these.",
        labels=["target"],
    )
    lifted = GaugeMetricFamily(
        "tattle_target_lifted_seconds",
        "How long the policy of the target is still lifted; only where it is.",
        labels=["target"],
    )
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    phases = GaugeMetricFamily(
        "tattle_phase_active",
        "Requests in flight on the target's API by phase; of startup and idle, whether it is that.",
        labels=["target", "phase"],
    )
    for target in targets:
        enforced.add_metric([target.target, target.mode], float(target.enforced))
        processes.add_metric([target.target, target.mode], target.processes)
        members.add_metric([target.target], target.members)
        if target.until > now:
            lifted.add_metric([target.target], (target.until - now) / 1e9)
        for phase, active in _activity(target):
            phases.add_metric([target.target, phase], active)
    yield from (enforced, processes, members, lifted, phases)


def _activity(target: TargetState) -> list[tuple[str, int]]:
    requests = target.requests
    if requests is None:
        return []
    return [(one, one == target.phase if one in _QUIET else requests.get(one, 0)) for one in _PHASES]


def map_families(sizes: Sequence[MapSize], losses: dict[str, int]) -> Iterator[Metric]:
    """Yield how full the kernel's maps are and how often one had no room."""
    entries = GaugeMetricFamily("tattle_map_entries", "Entries in a map.", labels=["map"])
    most = GaugeMetricFamily("tattle_map_max_entries", "Entries a map has room for.", labels=["map"])
    for size in sizes:
        entries.add_metric([size.map], size.entries)
        most.add_metric([size.map], size.max_entries)
    full = {name: losses[reason] for name, reason in _FULL_MAPS.items() if reason in losses}
    yield from (entries, most, _counter("map_full", "Entries that a map had no room for.", ["map"], full))


def hook_families(hooks: Sequence[HookState]) -> Iterator[Metric]:
    """Yield which hooks are attached and what the programs cost (where the kernel counts that)."""
    attached = GaugeMetricFamily(
        "tattle_hook_attached", "Whether the hook is attached, as the kernel says at scrape.", labels=["hook"]
    )
    runs = _family("bpf_program_runs", "Runs of a program; needs program_stats.", ["program"])
    spent = _family("bpf_program_run_seconds", "Time spent in a program; needs program_stats.", ["program"])
    for hook in hooks:
        attached.add_metric([hook.hook], float(hook.attached))
        runs.add_metric([hook.program], hook.runs)
        spent.add_metric([hook.program], hook.run_ns / 1e9)
    yield from (attached, runs, spent)
