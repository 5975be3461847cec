"""Decoding of the event ring: bytes as kernel/bpf/ringbuf.c leaves them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.bpf import btf
from tracer.bpf.abi import Abi
from tracer.bpf.engine import OBJECT
from tracer.bpf.ringbuf import BUSY, DISCARD, decode, finished
from tracer.model.rows import EventTuple

ABI = Abi.from_object(OBJECT.read_bytes())
SIZE = ABI.event.size


def record(time_ns: int, flags: int = 0, size: int = SIZE) -> bytes:
    """Write one ring record: header, event with ports 443 and 53, padding to eight bytes."""
    event = btf.pack(ABI.event, {"time_ns": time_ns, "remote_port": 443, "local_port": 53, "result": -1})
    return struct.pack("<II", size | flags, 0) + event[:size].ljust((size + 7) // 8 * 8, b"\0")


def times(data: bytes) -> list[int]:
    """Decode and keep the mark by which the tests know their records."""
    return [event.time_ns for event in decode(data, ABI.event)]


def test_fields_in_host_order() -> None:
    """An event comes out with its ports in host order and its result signed."""
    (event,) = decode(record(7), ABI.event)
    assert isinstance(event, EventTuple)
    assert (event.time_ns, event.local_port, event.remote_port, event.result) == (7, 53, 443, -1)


def test_unfinished_record_ends_the_batch() -> None:
    """A record that is still being written, and all after it, wait for the next turn."""
    data = record(1) + record(2) + record(3, BUSY) + record(4)
    assert finished(data, SIZE) == 2 * len(record(1))


def test_discarded_and_foreign_records_are_passed_over() -> None:
    """What the kernel half gave up, or a record of another size, is no event and stops nothing."""
    data = record(1) + record(2, DISCARD) + record(3, size=16) + record(4)
    assert finished(data, SIZE) == len(data)
    assert times(data) == [1, 4]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, BUSY, DISCARD]), max_size=40))
def test_any_mix(marks: list[int]) -> None:
    """Whatever the mix, just the finished and kept records before the first unfinished one come out."""
    data = b"".join(record(number, mark) for number, mark in enumerate(marks))
    end = marks.index(BUSY) if BUSY in marks else len(marks)
    kept = [number for number, mark in enumerate(marks[:end]) if not mark]
    assert times(data[: finished(data, SIZE)]) == kept


@pytest.mark.parametrize("data", [b"", b"\0" * 4])
def test_nothing_there(data: bytes) -> None:
    """An empty ring gives nothing and takes nothing."""
    assert finished(data, SIZE) == 0
    assert times(data) == []
