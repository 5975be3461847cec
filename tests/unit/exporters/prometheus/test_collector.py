"""Metrics: names and labels by contract, bounded, complete to the byte, and never going backwards."""

# ruff: noqa: ANN401, S311, S310 - fields of rows are of many kinds; chance is repeatable; the server is our own

from __future__ import annotations

import random
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from exporters.http import listener
from exporters.http.server import MetricsServer
from exporters.prometheus.collector import Collector
from exporters.prometheus.series import OTHER, PROCESSES_MAX, Book
from tests.support.fakes import ENUMS, FakeMaps, flow, process
from tracer.errors import HostError
from tracer.host.clock import BootClock
from tracer.model.records import Decoder
from tracer.model.status import TargetState
from tracer.session.flows import Accounts, alive
from tracer.targets.processes import Registry

if TYPE_CHECKING:
    from pathlib import Path

DECODER = Decoder(ENUMS)
TRAFFIC = ("target", "process", "destination", "scope", "proto", "direction")


class Hook(NamedTuple):
    """As the engine tells it."""

    hook: str
    program: str
    attached: bool
    runs: int
    run_ns: int


def accounts(maps: FakeMaps, names: dict[int, str] | None = None) -> Accounts:
    """Put together what a scrape reads."""
    return Accounts(maps, Registry(maps, ENUMS, (names or {}).get), DECODER, BootClock())


class Scrape:
    """A collector over fake maps, read as Prometheus reads it."""

    def __init__(
        self, maps: FakeMaps, names: dict[int, str] | None = None, most: int = 50, **options: Any
    ) -> None:
        self.accounts = accounts(maps, names)
        self.book = Book(self.accounts.registry, DECODER, most, **options)
        self.accounts.on_settle(self.book.settle)
        self.registry = CollectorRegistry()
        hooks = [
            Hook("connect4", "connect4", attached=True, runs=5, run_ns=2 * 10**9),
            Hook("egress", "", attached=False, runs=0, run_ns=0),
        ]
        targets = [TargetState("ollama", "observe", enforced=False, processes=3)]
        self.registry.register(Collector(self.accounts, self.book, DECODER, lambda: hooks, lambda: targets))

    def read(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Give every sample by its name and labels."""
        text = generate_latest(self.registry).decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Sum a metric over what has these labels."""
        return sum(
            value
            for (one, found), value in self.read().items()
            if one == name and labels.items() <= dict(found).items()
        )


def now(**changes: Any) -> Any:
    """Give a flow that was seen a moment ago."""
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return (
        flow(first_ns=boot, last_ns=boot, **changes)
        if "remote" not in changes
        else flow(changes.pop("remote"), **({"first_ns": boot, "last_ns": boot} | changes))
    )


def test_names_and_labels_are_the_contracts() -> None:
    """Both formats are read back by their parsers, with just these labels."""
    maps = FakeMaps([now(attempts=3, denied=1, would_deny=1, established=1, bytes_out=10, denied_packets=2)])
    scrape = Scrape(maps)
    found: dict[str, set[str]] = {}
    for name, labels in scrape.read():
        found.setdefault(name, set()).update(dict(labels))
    expected = {
        **{
            f"tattle_{name}_total": {*TRAFFIC, "verdict"}
            for name in ("connection_attempts", "connections_established")
        },
        **{
            f"tattle_{way}_{what}_total": {*TRAFFIC, "phase"}
            for way in ("transmit", "receive")
            for what in ("bytes", "packets")
        },
        "tattle_transmit_payload_bytes_total": {*TRAFFIC, "phase"},
        "tattle_denied_packets_total": {"target", "process", "destination", "scope", "proto"},
        "tattle_target_enforced": {"target", "mode"},
        "tattle_target_processes": {"target", "mode"},
        "tattle_target_members": {"target"},
        "tattle_held_seconds_bucket": {"le"},
        "tattle_held_seconds_count": set(),
        "tattle_held_seconds_sum": set(),
        "tattle_events_lost_total": {"reason"},
        "tattle_map_entries": {"map"},
        "tattle_map_max_entries": {"map"},
        "tattle_map_full_total": {"map"},
        "tattle_hook_attached": {"hook"},
        "tattle_bpf_program_runs_total": {"program"},
        "tattle_bpf_program_run_seconds_total": {"program"},
        "tattle_build_info": {"version", "kernel"},
    }
    assert found == expected
    list(parse_openmetrics(generate_openmetrics(scrape.registry).decode()))


def test_attempts_are_split_by_verdict() -> None:
    """Allowed, denied and would-deny add up to all attempts."""
    scrape = Scrape(FakeMaps([now(attempts=10, denied=3, would_deny=2)]))
    by = {
        verdict: scrape.total("tattle_connection_attempts_total", verdict=verdict)
        for verdict in ("allowed", "denied", "would-deny")
    }
    assert by == {"allowed": 5, "denied": 3, "would-deny": 2}


def test_a_denial_that_is_read_late_takes_no_allowed_attempt_back() -> None:
    """The kernel counts the attempt first: the allowed ones must not fall when the denial follows."""
    maps = FakeMaps([now(attempts=10, denied=5)])
    scrape = Scrape(maps)
    before = scrape.total("tattle_connection_attempts_total", verdict="allowed")
    maps.rows = [now(attempts=10, denied=6)]
    assert scrape.total("tattle_connection_attempts_total", verdict="allowed") >= before


def test_destinations_beyond_the_cap_fold_without_losing_a_byte() -> None:
    """Each target has a cap of its own."""
    rows = [now(remote=f"203.0.113.{number}", bytes_out=number) for number in range(100)]
    scrape = Scrape(FakeMaps(rows, flows_max=1000), most=10)
    labels = {
        dict(found)["destination"] for (name, found) in scrape.read() if name == "tattle_transmit_bytes_total"
    }
    assert len(labels) == 11
    assert OTHER in labels
    assert scrape.total("tattle_transmit_bytes_total") == sum(range(100))


def test_process_names_are_bounded_too() -> None:
    """A program that renames itself for each connection makes no endless series."""
    many = PROCESSES_MAX * 2
    maps = FakeMaps(
        [now(process=number, bytes_out=1) for number in range(1, many)],
        [process(number, b"p%d" % number) for number in range(1, many)],
        flows_max=10_000,
    )
    scrape = Scrape(maps)
    names = {
        dict(found)["process"] for (name, found) in scrape.read() if name == "tattle_transmit_bytes_total"
    }
    assert len(names) == PROCESSES_MAX + 1
    assert scrape.total("tattle_transmit_bytes_total") == many - 1


def test_hostile_names_stay_inside_their_label() -> None:
    """Quotes, newlines, escapes and bytes that are no text: parsed back as one bounded label."""
    maps = FakeMaps([now(bytes_out=1)], [process(1, b'"\n\\\x1b\xff,x="')])
    samples = [dict(found) for (name, found) in Scrape(maps).read() if name == "tattle_transmit_bytes_total"]
    assert samples[0]["process"] == '"\\x0a\\\\x1b\\xff,x="'


def test_pid_is_a_label_only_on_request() -> None:
    """And then each process has its own series."""
    maps = FakeMaps([now(bytes_out=1), now(process=2, bytes_out=2)], [process(1), process(2, tgid=4243)])
    found = {
        dict(labels)["pid"]
        for (name, labels) in Scrape(maps, pid=True).read()
        if name == "tattle_transmit_bytes_total"
    }
    assert found == {"4242", "4243"}


@pytest.mark.parametrize("seed", range(8))
def test_no_series_ever_falls_while_it_is_exported(seed: int) -> None:
    """Flows appear, grow, idle, get settled and come back, above every cap; the sum stays exact."""
    chance = random.Random(seed)
    maps = FakeMaps(
        processes=[process(number, b"p%d" % (number % 7)) for number in range(1, 30)], flows_max=60
    )
    scrape = Scrape(maps, most=5)
    before: dict[Any, float] = {}
    sent = 0
    for _ in range(60):
        boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for _ in range(12):
            amount = chance.randrange(1000)
            sent += amount
            add(maps, chance, amount, boot - chance.choice((0, 120)) * 10**9)
        if chance.random() < 0.5:
            scrape.accounts.tidy()
        after = scrape.read()
        fallen = {
            key for key, value in before.items() if "_total" in key[0] and after.get(key, value) < value
        }
        assert not fallen
        before = after
    assert scrape.total("tattle_transmit_bytes_total") == sent
    assert sum(row["bytes_out"] for row in scrape.accounts.view()[1]) == sent


def add(maps: FakeMaps, chance: random.Random, amount: int, seen_ns: int) -> None:
    """Count bytes as the kernel half does: into the flow's entry, which is made if it is not there."""
    wanted = flow(f"203.0.113.{chance.randrange(40)}", process=chance.randrange(1, 30))
    for at, row in enumerate(maps.rows):
        if row[:5] == wanted[:5]:
            maps.rows[at] = row._replace(bytes_out=row.bytes_out + amount, last_ns=max(row.last_ns, seen_ns))
            return
    maps.rows.append(wanted._replace(bytes_out=amount, first_ns=seen_ns, last_ns=seen_ns))


def test_series_end_after_a_day_and_begin_again() -> None:
    """A day without traffic takes a series out; its bytes are kept while its flow is in the table."""
    maps = FakeMaps([now(bytes_out=5)])
    book = Scrape(maps).book
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert len(book.fold(maps.rows, boot)) == 1
    assert not book.fold(maps.rows, boot + 25 * 3600 * 10**9)
    maps.rows[0] = maps.rows[0]._replace(bytes_out=6, last_ns=boot + 25 * 3600 * 10**9)
    assert [series.traffic[0][0] for series in book.fold(maps.rows, boot + 25 * 3600 * 10**9)] == [6]


def test_settling_keeps_recent_flows_and_stops_at_the_low_mark() -> None:
    """Only what was idle for a minute goes, the longest idle first, and no more than needed."""
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    idle = [flow(f"203.0.113.{n}", last_ns=boot - (200 - n) * 10**9) for n in range(50)]
    fresh = [flow(f"198.51.100.{n}", last_ns=boot) for n in range(45)]
    maps = FakeMaps(fresh + idle, flows_max=100)
    book = accounts(maps)
    assert book.tidy() == 35
    assert len(maps.rows) == 60
    assert set(fresh) <= set(maps.rows)
    assert book.tidy() == 0


def test_dead_processes_without_flows_are_forgotten() -> None:
    """Those that live, or that a flow is of, stay known."""
    own = process(1, tgid=1, start_ns=0)
    maps = FakeMaps([flow(process=2)], [process(n, tgid=0x7FFFFFF0) for n in range(2, 90)] + [own])
    accounts(maps).tidy()
    assert 2 in maps.table
    assert len(maps.table) <= 2


def test_a_pid_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    """By its start time, as the kernel tells it in clock ticks."""
    (tmp_path / "4242").mkdir()
    (tmp_path / "4242" / "stat").write_text("4242 (a) b) S " + " ".join(["0"] * 18) + " 100 0")
    assert alive(process(start_ns=1_000_000_000), tmp_path)
    assert not alive(process(start_ns=9_000_000_000), tmp_path)
    assert not alive(process(tgid=1), tmp_path)


def test_overflow_is_a_series_of_its_own() -> None:
    """What found no room in the kernel's table is exported as such."""
    maps = FakeMaps()
    maps.overflow = lambda: (flow("::", process=0, bytes_out=99), flow("::", process=0, direction=1))  # type: ignore[method-assign]
    assert Scrape(maps).total("tattle_transmit_bytes_total", destination=OTHER, scope="unknown") == 99


def test_what_found_no_room_is_a_row_of_the_flows_too() -> None:
    """The sum of `flows` is exact with a full table: one row of nobody a direction, with nulls."""
    maps = FakeMaps()
    maps.overflow = lambda: (  # type: ignore[method-assign]
        flow("::", process=0, bytes_out=99, packets_out=1),
        flow("::", process=0, direction=1),
    )
    head, rows = accounts(maps).view()
    (row,) = rows
    assert (row["bytes_out"], row["direction"], row["scope"]) == (99, "out", "unknown")
    assert (row["comm"], row["remote_addr"], row["remote_port"], row["proto"]) == (None, None, None, None)
    assert head["totals"]["unknown"]["bytes_out"] == 99


def test_idle_clients_make_room_for_new_ones() -> None:
    """Accepted flows have a share of the table; when it is nearly full, idle ones are settled."""
    maps = FakeMaps([flow(direction=1, remote_port=port) for port in range(1, 11)], flows_max=1000)
    book = accounts(maps)
    assert book.tidy() == 0
    maps.share_ported = 0.9
    assert book.tidy() == 4


def test_old_knocks_leave_the_table_and_no_sum() -> None:
    """A flood of SYNs that nobody accepted is settled by address, so that real clients find room."""
    maps = FakeMaps()
    maps.knocks = [flow("192.0.2.1", direction=1, remote_port=0, bytes_in=40, first_ns=1) for _ in range(51)]
    book = accounts(maps)
    book.tidy()
    _, rows = book.view()
    assert maps.knocks == []
    assert [(row["remote_addr"], row["bytes_in"]) for row in rows] == [("192.0.2.1", 51 * 40)]


def get(port: int, path: str, **headers: str) -> tuple[int, str, bytes]:
    """Ask the server; returns status, content type and body."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_server_speaks_what_it_is_asked_for() -> None:
    """Text, OpenMetrics and gzip; health by what is wrong now; and nothing else."""
    wrong: list[str] = []
    server = MetricsServer(listener.listen("127.0.0.1", 0))
    server.start(Collector(*collector_parts()), lambda: wrong)
    try:
        status, kind, body = get(server.port, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert b"tattle_build_info" in body
        _, kind, body = get(server.port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")
        assert get(server.port, "/metrics", **{"Accept-Encoding": "gzip"})[2][:2] == b"\x1f\x8b"
        assert get(server.port, "/healthz")[::2] == (200, b"ok\n")
        wrong.append("hook egress is not attached")
        assert get(server.port, "/healthz")[::2] == (503, b"hook egress is not attached\n")
        assert get(server.port, "/etc/passwd")[0] == 404
    finally:
        server.close()


def collector_parts() -> tuple[Any, ...]:
    """Give what a collector is made of, over empty maps."""
    source = accounts(FakeMaps())
    return source, Book(source.registry, DECODER, 50), DECODER, list, list


def test_a_port_in_use_says_which() -> None:
    """And how to choose another."""
    with listener.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(HostError, match=f"127.0.0.1:{port}") as error:
            listener.listen("127.0.0.1", port)
    assert "--listen" in error.value.hint


def test_scrapes_at_once_do_not_mix() -> None:
    """Several scrapers get the same whole numbers."""
    rows = [now(remote=f"203.0.113.{number}", bytes_out=1) for number in range(100)]
    scrape = Scrape(FakeMaps(rows, flows_max=1000))
    seen: list[float] = []
    threads = [
        threading.Thread(target=lambda: seen.append(scrape.total("tattle_transmit_bytes_total")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [100.0] * 8
