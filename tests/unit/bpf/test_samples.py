"""The ring of samples and streams put together from it: bytes as the kernel half leaves them."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.bpf import btf
from tracer.bpf.abi import Abi
from tracer.bpf.engine import OBJECT
from tracer.bpf.ringbuf import BUSY, DISCARD, finished
from tracer.bpf.samples import split
from tracer.names.reassembly import AGE_NS, BYTES_MAX, PIECES_MAX, Stream, Streams

ABI = Abi.from_object(OBJECT.read_bytes())
SIZE = ABI.sample.size


def record(data: bytes, room: int = 512, flags: int = 0, **fields: int) -> bytes:
    """Write one ring record: header, sample, `room` bytes of payload, padding to eight."""
    known = {"remote_port": 53, "local_port": 40000, "length": len(data), "payload": len(data)}
    head = btf.pack(ABI.sample, known | fields)
    body = head + data.ljust(room, b"\xee")
    return struct.pack("<II", len(body) | flags, 0) + body.ljust((len(body) + 7) // 8 * 8, b"\0")


def test_fields_and_payload() -> None:
    """Ports come out in host order, and of the record's room only what was filled."""
    (sample,) = split(record(b"hello", socket=7, time_ns=9), ABI.sample)
    head = sample.head
    assert (head.socket, head.time_ns, head.remote_port, head.local_port) == (7, 9, 53, 40000)
    assert sample.payload == b"hello"
    assert not sample.cut


def test_a_packet_that_was_longer_is_known_as_cut() -> None:
    """The packet's own length says what is missing."""
    (sample,) = split(record(b"x" * 512, payload=1400), ABI.sample)
    assert sample.cut


def test_sizes_mix_and_discarded_ones_are_passed_over() -> None:
    """Records of both rooms, one given up, one too short to be a sample."""
    short = struct.pack("<II", 16, 0) + bytes(16)
    data = record(b"a") + record(b"b" * 600, 2048) + record(b"c", flags=DISCARD) + short + record(b"d")
    assert [sample.payload[:1] for sample in split(data, ABI.sample)] == [b"a", b"b", b"d"]


def test_unfinished_record_ends_the_batch() -> None:
    """As with events: what is still being written waits, and all behind it."""
    data = record(b"a") + record(b"b", 2048) + record(b"c", flags=BUSY) + record(b"d")
    assert finished(data, SIZE) == len(record(b"a")) + len(record(b"b", 2048))


def test_a_length_beyond_the_record_gives_what_is_there() -> None:
    """Nothing of the next record is read."""
    (first, second) = split(record(b"a", length=60000) + record(b"b"), ABI.sample)
    assert len(first.payload) == 512
    assert second.payload == b"b"


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    """Whatever the pages hold, reading ends and raises nothing."""
    split(data, ABI.sample)


WHOLE = bytes(range(256)) * 4


@settings(deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_segments_in_any_order_give_the_stream(data: st.DataObject, base: int) -> None:
    """Split, shuffled, repeated and overlapping, across the end of the sequence numbers: the same bytes."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(WHOLE) - 1), max_size=12)))
    edges = [0, *cuts, len(WHOLE)]
    segments = [(start, WHOLE[start : end + 9]) for start, end in itertools.pairwise(edges)]
    segments += data.draw(st.lists(st.sampled_from(segments), max_size=5))
    stream = Stream(base, 0)
    for start, piece in data.draw(st.permutations(segments)):
        stream.add((base + start) % 2**32, piece)
    assert stream.head() == WHOLE
    assert stream.size == len(WHOLE)
    assert not stream.has_gap


def test_first_bytes_win() -> None:
    """What is sent again with other bytes changes nothing, in whatever way it overlaps."""
    stream = Stream(100, 0)
    stream.add(104, b"EFGH")
    stream.add(100, b"abcdefghijkl")
    assert stream.head() == b"abcdEFGHijkl"
    stream.take(6)
    stream.add(100, b"xxxxxxxxxxxxxxx")
    assert stream.head() == b"GHijklxxx"


def test_what_is_done_with_is_not_new_again() -> None:
    """A stream that is closed stays known: a retransmission does not open it again."""
    streams: Streams[int] = Streams(pytest.fail)
    streams.add(1, 0, b"abc", 0)
    streams.close(1)
    assert streams.add(1, 0, b"abc", 1).head() == b""
    assert streams.total == 0


def test_one_stream_is_bounded() -> None:
    """Neither bytes nor pieces grow without end."""
    stream = Stream(0, 0)
    for at in range(0, 4 * PIECES_MAX, 2):
        stream.add(at, b"x")
    stream.add(10**6, bytes(BYTES_MAX + 1))
    assert len(stream.pieces) == PIECES_MAX
    assert stream.size <= BYTES_MAX


def test_streams_are_bounded_and_each_given_up_is_counted() -> None:
    """Of too many, the oldest goes; the count is exact, and empty or closed ones are no loss."""
    gone: list[int] = []
    streams: Streams[int] = Streams(gone.append, most=10, total=10_000)
    for key in range(25):
        streams.add(key, 0, b"x", 0)
    assert gone == list(range(15))
    streams.close(15)
    for key in range(100, 104):
        streams.add(key, 0, b"x" * 4000, 0)
    assert gone == [*range(15), *range(16, 25), 100, 101]
    assert streams.total <= 10_000


def test_old_streams_are_forgotten() -> None:
    """After AGE_NS; those that never came to an end are told, what was read is young again."""
    streams: Streams[str] = Streams(pytest.fail)
    for key in ("waits", "read", "closed"):
        streams.add(key, 0, b"abc", 0)
    streams.take("read", 1, 5)
    streams.close("closed")
    assert streams.tidy(AGE_NS) == ["waits"]
    assert len(streams) == 1
    assert streams.tidy(AGE_NS + 5) == ["read"]
