"""The kernel half's rings: whole batches out of the mapped pages, no system call or Python call a record.

The layout is that of kernel/bpf/ringbuf.c: a page with the consumer's position, a page with the
producer's, then the data, which is mapped twice in a row so that no record is ever cut in two. Each
record has a header of eight bytes: length with two flag bits, and a page offset of the kernel's own.
"""

from __future__ import annotations

import mmap
import struct
import threading
from typing import TYPE_CHECKING, Final

from tracer.bpf import libbpf
from tracer.model.rows import EventTuple, NoticeRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.bpf.btf import Layout

__all__ = ["EventTuple", "Notices", "Pages", "Ring", "decode", "records"]

HEADER: Final = 8  # BPF_RINGBUF_HDR_SZ
BUSY: Final = 1 << 31  # BPF_RINGBUF_BUSY_BIT
DISCARD: Final = 1 << 30  # BPF_RINGBUF_DISCARD_BIT
_POSITION = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")


class Pages:
    """The mapped pages of a ring buffer, for its one reader; `close` them before the descriptor."""

    def __init__(self, ring_fd: int) -> None:
        self._fd = ring_fd
        self._order = threading.Lock()
        self._order.acquire()
        self._mask = libbpf.map_info(ring_fd).shape.max_entries - 1
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(ring_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(
            ring_fd, page + 2 * (self._mask + 1), mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )

    def fileno(self) -> int:
        """Return the descriptor to poll: readable when the kernel half chose to wake us."""
        return self._fd

    def take(self, size: int) -> bytes:
        """Return all finished records with their headers and free their room; most have `size` bytes."""
        (position,) = _POSITION.unpack_from(self._consumer)
        (end,) = _POSITION.unpack_from(self._data)
        self._fence()
        start = mmap.PAGESIZE + (position & self._mask)
        # Copied twice: memcpy may copy a record's end before the header that says that it is finished.
        ready = finished(self._data[start : start + end - position], size)
        data = self._data[start : start + ready]
        if ready:
            self._fence()
            _POSITION.pack_into(self._consumer, 0, position + ready)
        return data

    def _fence(self) -> None:
        """Keep what was read before from being read after what follows, on machines that reorder reads.

        Documentation/bpf/ringbuf.rst asks the reader for a load-acquire of the producer's position and a
        store-release of its own. Python has neither; a release of a lock followed by an acquire orders both.
        """
        self._order.release()
        self._order.acquire()

    def close(self) -> None:
        """Unmap the ring."""
        self._consumer.close()
        self._data.close()


class Ring(Pages):
    """The ring of events: records of one size."""

    def __init__(self, events_fd: int, event: Layout) -> None:
        super().__init__(events_fd)
        self._event = event

    def drain(self) -> list[EventTuple]:
        """Return all finished events in their order and free their room."""
        return decode(self.take(self._event.size), self._event)


class Notices(Pages):
    """The ring of notices: what user space should know at once."""

    def __init__(self, notices_fd: int, notice: Layout) -> None:
        super().__init__(notices_fd)
        self._shape, self._size = struct.Struct(notice.format), notice.size

    def drain(self) -> list[NoticeRow]:
        """Return all notices in their order and free their room."""
        data = self.take(self._size)
        found = [at for at, size in records(data) if size == self._size]
        return [NoticeRow._make(self._shape.unpack_from(data, at)) for at in found]


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


def records(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each record of finished `data` begins, its header passed, and its size in bytes."""
    at = 0
    while at + HEADER <= len(data):
        (word,) = _LENGTH.unpack_from(data, at)
        if not word & DISCARD:
            yield at + HEADER, word
        at += _stride(word & ~DISCARD)


def _kept(data: bytes, size: int) -> bytes:
    return b"".join(
        data[at - HEADER : at - HEADER + _stride(size)] for at, found in records(data) if found == size
    )
