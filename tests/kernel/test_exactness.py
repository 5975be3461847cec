"""Sums, to the byte and to the call: against wire, receiver and device, also when it is too much."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from tests.kernel.scenarios.scenario import RESET4, TIMESTAMPED4, Want, complaints, expect
from tests.support.daemon import PATIENCE, Tattle, events_lost, until
from tests.support.network import PEER4, SILENT4, Lab, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = {"connect", "established", "close"}
ETHERNET = 14
"""Bytes of an Ethernet header, which a device counts and an IP packet does not have."""
MIB = 1 << 20


@contextmanager
def small(scratch: Path, **limits: int) -> Iterator[Tattle]:
    """Run a daemon whose tables are too small on purpose."""
    config = scratch / f"{'-'.join(limits)}.toml"
    config.write_text("[limits]\n" + "".join(f"{key} = {value}\n" for key, value in limits.items()))
    tattle = Tattle(scratch, "--config", str(config))
    try:
        yield tattle.start()
        tattle.stop()
    finally:
        tattle.remove()


def total(flows: list[dict[str, Any]]) -> Wire:
    """Add flows up."""
    return Wire(*(sum(flow[key] for flow in flows) for key in Wire._fields))


def device(lab: Lab) -> Wire:
    """Return what the client's device has counted, without Ethernet headers and the kernels' own talk."""
    stats = json.loads(lab.client.run("ip", "-j", "-s", "link", "show", "wire"))[0]["stats64"]
    out, into = stats["tx"], stats["rx"]
    moved = Wire(
        out["bytes"] - ETHERNET * out["packets"],
        into["bytes"] - ETHERNET * into["packets"],
        out["packets"],
        into["packets"],
    )
    (told_out, packets_out), (told_in, packets_in) = lab.peer_ns.control(), lab.client.control()
    return moved.less(Wire(told_out, told_in, packets_out, packets_in))


def test_bytes_equal_the_device(lab: Lab, plain: Tattle) -> None:
    """All that the device moved meanwhile is in the flows: nothing left uncounted beside them."""
    port, datagrams, before = lab.peer.serve(), lab.peer.serve("udp"), device(lab)
    name = lab.name("device")
    lab.run("tcp.py", name=name, op="transfer", host=PEER4, port=port, up=2 * MIB, down=2 * MIB)
    lab.run("udp.py", name=name, op="unconnected", host=PEER4, port=datagrams, count=200, down=MIB)

    def look() -> list[str]:
        moved, counted = device(lab).less(before), total(plain.flows(name))
        return [] if moved == counted else [f"device {moved}, flows {counted}"]

    until(look)


def test_bytes_equal_the_receiver(lab: Lab, plain: Tattle) -> None:
    """Payload that the receiver read, and 28 bytes of header for each datagram: nothing else."""
    port = lab.peer.serve("udp")
    program, result = lab.run("udp.py", op="unconnected", host=PEER4, port=port, count=777, datagram=333)
    lab.drained(port, result["bytes_sent"])
    stats = lab.peer.stats(port)
    assert stats["bytes_in"] == result["bytes_sent"]

    def look() -> list[str]:
        got = total(plain.flows(program.name))
        right = Wire(stats["bytes_in"] + 28 * stats["datagrams"], 0, stats["datagrams"], 0)
        return [] if got == right else [f"{got}, should be {right}"]

    until(look)


def test_every_kind_of_connect_counts_once(lab: Lab, plain: Tattle) -> None:
    """50 that succeed, 40 refused, 3 interrupted, 2 timed out: 95 attempts, 50 established."""
    name, good, closed, deaf = lab.name("mixed"), lab.peer.serve(), lab.port(), lab.port()
    slow = lab.start("tcp.py", name=name, op="probe", host=SILENT4, port=deaf, retries=1, times=2, timeout=9)
    lab.run("tcp.py", name=name, op="transfer", host=PEER4, port=good, up=100, times=50)
    lab.run("tcp.py", name=name, op="probe", host=PEER4, port=closed, times=40)
    for _ in range(3):
        lab.run("tcp.py", name=name, op="interrupted", host=SILENT4, port=deaf, after=0.05)
    slow.result()
    expected = expect(
        Want(name, "tcp", PEER4, good, attempts=50, established=50),
        Want(name, "tcp", PEER4, closed, attempts=40, established=0),
        Want(name, "tcp", SILENT4, deaf, attempts=5, established=0, rows=4),
    )
    until(lambda: complaints(lab, expected, plain.flows(name), loopback=False))


def too_late(most: int) -> dict[str, Any]:
    """Permit what no socket is there for: the peer's FIN after our reset, and the kernel's answer to it."""
    return {"unseen_out": ((RESET4, most),), "unseen_in": ((TIMESTAMPED4, most), (RESET4, most))}


def test_a_burst_of_twenty_thousand_connects(lab: Lab, plain: Tattle) -> None:
    """20,000 connects as fast as they go: counters exact, and events seen + events lost = events made."""
    workers, each = 4, 5000
    plain.mark()
    lost = events_lost(plain)
    port, name = lab.peer.serve("sink"), lab.name("burst")
    started = [
        lab.start("tcp.py", name=name, op="burst", host=PEER4, port=port, times=each) for _ in range(workers)
    ]
    results = [program.result() for program in started]
    assert [result["errno"] for result in results] == [None] * workers
    made = workers * each
    want = Want(name, "tcp", PEER4, port, attempts=made, established=made, rows=workers, **too_late(made))
    until(lambda: complaints(lab, expect(want), plain.flows(name), loopback=False))

    def look() -> list[str]:
        log = plain.events()
        kinds = Counter(event["event"] for event in log if event["comm"] == name)
        missing = events_lost(plain) - lost
        others = len([event for event in log if event["comm"] != name and event["event"] != "lost"])
        # What others do meanwhile may be among the lost ones: then that is as much as can be said.
        whole = 3 * made <= sum(kinds.values()) + missing and (
            others or 3 * made == sum(kinds.values()) + missing
        )
        return [] if whole and set(kinds) <= KINDS else [f"{kinds} and {missing} lost, should be {made} each"]

    until(look)


def test_a_ring_that_is_too_small(lab: Lab, scratch: Path) -> None:
    """One page of ring: events are lost, each is counted, and the counters know nothing of it."""
    port, name, times = lab.peer.serve("sink"), lab.name("ring"), 3000
    with small(scratch, ring_bytes=4096) as tattle:
        lab.run("tcp.py", name=name, op="burst", host=PEER4, port=port, times=times)
        want = Want(name, "tcp", PEER4, port, attempts=times, established=times, **too_late(times))
        until(lambda: complaints(lab, expect(want), tattle.flows(name), loopback=False))

        def look() -> list[str]:
            seen = len(tattle.events(name))
            lost = tattle.losses()["ring_full"]
            return (
                [] if lost and seen + lost >= 3 * times else [f"{seen} seen, {lost} lost, {3 * times} made"]
            )

        until(look)
        until(lambda: [] if reasons(tattle) else ["the log does not tell"])
        assert reasons(tattle) == {"ring_full"}


def reasons(tattle: Tattle) -> set[str]:
    """Return which losses the log tells of: at most once a second, so it may be a while."""
    return {event["result"] for event in tattle.events() if event["event"] == "lost"}


def test_a_flow_table_that_is_too_small(lab: Lab, scratch: Path) -> None:
    """64 flows have room, 1,000 are made: the sum in the metrics has every byte, and the rest is counted."""
    name, count, first = lab.name("table"), 1000, 2_000
    with small(scratch, flows=64) as tattle:
        before = metric_sum(tattle, "tattle_transmit_bytes_total")
        program, _ = lab.run("udp.py", name=name, op="spread", host=PEER4, first=first, count=count)
        size = count * (100 + 28)

        def look() -> list[str]:
            moved = metric_sum(tattle, "tattle_transmit_bytes_total") - before
            shown = total(tattle.flows(name)).bytes_out
            lost = tattle.losses()["flows_full"]
            good = moved >= size and shown <= 64 * 128 and lost >= count - 64
            return [] if good else [f"metrics {moved}, flows {shown}, should be {size}; {lost} lost"]

        until(look)
    assert program.name == name


def test_a_process_table_that_is_too_small(lab: Lab, scratch: Path) -> None:
    """64 processes have room, 200 are made: the bytes stay, under nobody's name, and it is counted."""
    port, child, times = lab.peer.serve(), lab.name("many"), 200
    lab.program("brief.c", child)
    with small(scratch, processes=64) as tattle:
        lab.run("brief.c", PEER4, str(port), str(times), str(lab.scratch / child))

        def look() -> list[str]:
            there = [flow for flow in tattle.read()["flows"] if flow["remote_port"] == port]
            attempts = sum(flow["attempts"] for flow in there)
            lost = tattle.losses()["processes_full"]
            good = attempts == times and lost and any(flow["comm"] is None for flow in there)
            return [] if good else [f"{attempts} attempts, {lost} lost, should be {times}"]

        until(look)


def metric_sum(tattle: Tattle, name: str) -> int:
    """Add up all series of one metric, as Prometheus would."""
    with urlopen(f"http://127.0.0.1:{tattle.port}/metrics", timeout=PATIENCE) as page:
        lines = page.read().decode().splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(name + "{"))


def room(tattle: Tattle, count: int) -> list[str]:
    """Complain as long as the table has no room for so many flows: idle ones make room after a minute."""
    (flows,) = [one for one in tattle.ask("status")["maps"] if one["map"] == "flows"]
    free = flows["max_entries"] - flows["entries"]
    return [] if free > 2 * count else [f"{free} free of {flows['max_entries']}"]


@pytest.mark.parametrize("loopback", [False, True])
def test_a_flood_to_many_destinations(lab: Lab, plain: Tattle, thorough: Tattle, *, loopback: bool) -> None:
    """One unconnected socket, 5,000 destinations: each has its flow, each flow its one packet."""
    tattle, first = (thorough, 3_000) if loopback else (plain, 9_000)
    name, count = lab.name("flood"), 5000
    until(lambda: room(tattle, count), patience=240)
    lab.run("udp.py", name=name, op="spread", host=PEER4, first=first, count=count)

    def look() -> list[str]:
        flows = tattle.flows(name)
        odd = [
            flow
            for flow in flows
            if (flow["attempts"], flow["bytes_out"], flow["packets_out"]) != (1, 128, 1)
        ]
        return [] if len(flows) == count and not odd else [f"{len(flows)} flows, {odd[:2]}"]

    until(look)
