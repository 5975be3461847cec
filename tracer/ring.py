"""The event ring: whole batches out of the mapped pages, no system call and no Python call a record.

The layout is that of kernel/bpf/ringbuf.c: a page with the consumer's position, a page with the
producer's, then the data, which is mapped twice in a row so that no record is ever cut in two. Each
record has a header of eight bytes: length with two flag bits, and a page offset of the kernel's own.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Final

from tracer import libbpf
from tracer.abi import EventTuple

if TYPE_CHECKING:
    from tracer.btf import Layout

__all__ = ["EventTuple", "Ring", "decode"]

HEADER: Final = 8  # BPF_RINGBUF_HDR_SZ
BUSY: Final = 1 << 31  # BPF_RINGBUF_BUSY_BIT
DISCARD: Final = 1 << 30  # BPF_RINGBUF_DISCARD_BIT
_POSITION = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")


class Ring:
    """The one reader of a ring buffer; `close` it before its descriptor."""

    def __init__(self, events_fd: int, event: Layout) -> None:
        self._fd = events_fd
        self._event = event
        self._mask = libbpf.map_info(events_fd).shape.max_entries - 1
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(events_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(
            events_fd, page + 2 * (self._mask + 1), mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )

    def fileno(self) -> int:
        """Return the descriptor to poll: readable when the kernel half chose to wake us."""
        return self._fd

    def drain(self) -> list[EventTuple]:
        """Return all finished events in their order and free their room."""
        (position,) = _POSITION.unpack_from(self._consumer)
        (end,) = _POSITION.unpack_from(self._data)
        start = mmap.PAGESIZE + (position & self._mask)
        # Copied twice: memcpy may copy a record's end before the header that says that it is finished.
        ready = finished(self._data[start : start + end - position], self._event.size)
        events = decode(self._data[start : start + ready], self._event)
        if ready:
            _POSITION.pack_into(self._consumer, 0, position + ready)
        return events

    def close(self) -> None:
        """Unmap the ring."""
        self._consumer.close()
        self._data.close()


def finished(data: bytes, size: int) -> int:
    """Return how many bytes of `data` lie before the first record that is still being written."""
    if _is_regular(data, size):
        return len(data)
    at = 0
    while at + HEADER <= len(data):
        (word,) = _LENGTH.unpack_from(data, at)
        if word & BUSY:
            break
        at += _stride(word & ~DISCARD)
    return at


def decode(data: bytes, event: Layout) -> list[EventTuple]:
    """Decode finished records; those discarded or of another size than `event` are passed over."""
    return _unpack(data if _is_regular(data, event.size) else _kept(data, event.size), event)


def _stride(size: int) -> int:
    """Return the room of a record of `size` bytes: with its header, rounded up to eight."""
    return HEADER + (size + 7) // 8 * 8


def _is_regular(data: bytes, size: int) -> bool:
    """Say whether every header is just `size`: no flag set, no record of another length."""
    stride, header = _stride(size), _LENGTH.pack(size)
    count, rest = divmod(len(data), stride)
    return not rest and all(data[at::stride] == header[at : at + 1] * count for at in range(_LENGTH.size))


def _unpack(data: bytes, event: Layout) -> list[EventTuple]:
    swapped, stride = bytearray(data), _stride(event.size)
    for name in event.swapped:
        high = HEADER + event.offset(name)
        swapped[high::stride], swapped[high + 1 :: stride] = data[high + 1 :: stride], data[high::stride]
    form = f"<{HEADER}x{event.format[1:]}{stride - HEADER - event.size}x"
    return list(map(EventTuple._make, struct.iter_unpack(form, swapped)))


def _kept(data: bytes, size: int) -> bytes:
    kept, at = bytearray(), 0
    while at + HEADER <= len(data):
        (word,) = _LENGTH.unpack_from(data, at)
        stride = _stride(word & ~DISCARD)
        if word == size:
            kept += data[at : at + stride]
        at += stride
    return bytes(kept)
