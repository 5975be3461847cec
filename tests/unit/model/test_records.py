"""Events and flows as JSON: every key of the contract, always, and in its form."""

# ruff: noqa: SIM905 - the lists of keys are read beside the contract, which has no commas

from __future__ import annotations

import json
import re

import pytest

from tests.support.fakes import ENUMS, event, flow, packed
from tracer.model.jsonlines import encode
from tracer.model.process import ProcessInfo
from tracer.model.records import Decoder, address, lost_json, outcome, protocol, timestamp
from tracer.model.scope import Scope
from tracer.session.archive import Ledger, settled_json

DECODER = Decoder(ENUMS)
WHO = ProcessInfo(4242, 1, "curl", "bash", "/usr/bin/curl", 1000, "/a", None, None, "cgroup:/a")
# As the contract lists them
EVENT_KEYS = (
    "ts event target pid ppid comm parent_comm exe uid cgroup unit container proto family direction "
    "local_addr local_port remote_addr remote_port name name_source name_age_s names purpose unexpected "
    "scope phase verdict rule result bytes_out bytes_in packets_out packets_in duration_ms "
    "path dns_type answers"
).split()
FLOW_KEYS = (
    "target pid ppid comm parent_comm exe uid cgroup unit container proto family direction local_addr "
    "local_port remote_addr remote_port name name_source name_age_s names purpose unexpected "
    "scope phase attempts established denied bytes_out bytes_in packets_out packets_in "
    "payload_out first_seen last_seen"
).split()


def test_event_has_the_contracts_keys_in_order() -> None:
    """Also for a process that is not known, and for the event that tells a loss."""
    assert list(DECODER.event(event(), WHO, 0)) == EVENT_KEYS
    assert list(DECODER.event(event(), None, 0)) == EVENT_KEYS
    assert list(lost_json("ring_full", 3, 0)) == EVENT_KEYS


def test_flow_has_the_contracts_keys() -> None:
    """A settled sum has the same ones."""
    assert list(DECODER.flow(flow(), WHO, 0)) == FLOW_KEYS
    ledger = Ledger(rows_max=1)
    for remote in ("203.0.113.7", "203.0.113.8"):
        ledger.settle(flow(remote), WHO, Scope.INTERNET)
    for key, row in ledger.items():
        assert list(settled_json(key, row, DECODER, 0)) == FLOW_KEYS


def test_event_says_what_happened() -> None:
    """Who, where, how far away, and what came of it."""
    found = DECODER.event(event(kind=4, result=111, duration_ns=1_500_000, bytes_out=60), WHO, 0)
    expected = {
        "event": "close",
        "pid": 4242,
        "comm": "curl",
        "remote_addr": "203.0.113.7",
        "remote_port": 443,
    }
    expected |= {
        "proto": "tcp",
        "family": "ipv4",
        "scope": "internet",
        "result": "ECONNREFUSED",
        "bytes_out": 60,
    }
    expected |= {"verdict": "allowed", "direction": "out", "duration_ms": 1.5, "target": "cgroup:/a"}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({}, "local_addr", None),
        ({}, "local_port", None),
        ({"local": packed("10.0.0.1"), "local_port": 5}, "local_addr", "10.0.0.1"),
        ({}, "result", None),
        ({"result": 0}, "result", "ok"),
        ({}, "duration_ms", None),
        ({"proto": 1}, "remote_port", None),
        ({"proto": 1}, "proto", "icmp"),
        ({"proto": 253}, "proto", "253"),
        ({"kind": 5, "verdict": 1}, "verdict", "denied"),
        ({"kind": 5, "verdict": 1}, "event", "deny"),
        ({"verdict": 2}, "verdict", "would-deny"),
        ({"direction": 1, "kind": 6}, "direction", "in"),
        ({"remote": packed("2001:db8::1")}, "family", "ipv6"),
        ({"remote": packed("2001:db8::1")}, "remote_addr", "2001:db8::1"),
        ({"flags": 1}, "scope", "host"),
    ],
)
def test_unknown_is_null(changes: dict[str, object], key: str, value: object) -> None:
    """What the kernel half did not know (yet) is null, never an empty text or a zero port."""
    assert DECODER.event(event(**changes), WHO, 0)[key] == value


def test_times_are_rfc3339_with_microseconds() -> None:
    """Boot time plus the wall clock at boot, cut to microseconds."""
    boot = 1_700_000_000_000_000_000
    assert DECODER.event(event(time_ns=1_234_567), WHO, boot)["ts"] == "2023-11-14T22:13:20.001234Z"
    assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}\.\d{6}Z", timestamp(0))


def test_a_line_is_json() -> None:
    """What goes to the log is read back by any parser, hostile names included."""
    who = WHO._replace(comm='a"\\')
    assert json.loads(encode(DECODER.event(event(), who, 0)))["comm"] == 'a"\\'


def test_mapped_addresses_are_ipv4() -> None:
    """An IPv4 peer of an IPv6 socket is an IPv4 peer."""
    assert address(packed("192.0.2.1")) == "192.0.2.1"


def test_numbers_without_a_name_stay_numbers() -> None:
    """Nothing is guessed."""
    assert protocol(200) == "200"
    assert outcome(9999) == "E9999"


def test_lost_event_says_reason_and_count() -> None:
    """As the module promises: the reason in `result`, the count in `packets_out`."""
    found = lost_json("ring_full", 42, 0)
    assert (found["event"], found["result"], found["packets_out"], found["pid"]) == (
        "lost",
        "ring_full",
        42,
        None,
    )


def test_ledger_loses_names_but_no_byte() -> None:
    """Beyond its bound, sums keep target and scope, and the total is that of what went in."""
    ledger = Ledger(rows_max=5)
    for number in range(200):
        ledger.settle(flow(f"203.0.113.{number}", bytes_out=number, attempts=1), WHO, Scope.INTERNET)
    rows = [settled_json(key, row, DECODER, 0) for key, row in ledger.items()]
    assert len(rows) <= 6
    assert sum(row["bytes_out"] for row in rows) == sum(range(200))
    assert sum(row["attempts"] for row in rows) == 200
    assert all(row["scope"] == "internet" and row["target"] == "cgroup:/a" for row in rows)
    assert all(row["remote_port"] is None and row["pid"] is None for row in rows)
