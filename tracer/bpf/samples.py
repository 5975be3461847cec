"""The ring of samples: parts of packets that say a name or a request, in whole batches."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from tracer.bpf.ringbuf import Pages, records
from tracer.model.rows import SampleTuple

if TYPE_CHECKING:
    from tracer.bpf.btf import Layout

__all__ = ["Sample", "SampleTuple", "Samples", "split"]


class Sample(NamedTuple):
    """What the kernel half says of a packet, and the first bytes of the packet's payload."""

    head: SampleTuple
    payload: bytes

    @property
    def cut(self) -> bool:
        """Say whether the packet had more than was copied."""
        return len(self.payload) < self.head.payload


class Samples(Pages):
    """The one reader of the ring."""

    def __init__(self, samples_fd: int, sample: Layout) -> None:
        super().__init__(samples_fd)
        self._sample = sample

    def drain(self) -> list[Sample]:
        """Return all finished samples in their order and free their room."""
        return split(self.take(self._sample.size), self._sample)


def split(data: bytes, shape: Layout) -> list[Sample]:
    """Take finished records apart; those that are shorter than a header are passed over.

    A header that claims more payload than its record has room for gets what there is.
    """
    head = struct.Struct(shape.format)
    swapped = [place for place, name in enumerate(shape.fields) if name in shape.swapped]
    found = []
    for at, size in records(data):
        if size >= shape.size and at + shape.size <= len(data):
            values = list(head.unpack_from(data, at))
            for place in swapped:
                values[place] = values[place] >> 8 | (values[place] & 0xFF) << 8
            row = SampleTuple._make(values)
            start = at + shape.size
            found.append(Sample(row, data[start : min(start + row.length, at + size)]))
    return found
