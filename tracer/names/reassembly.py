"""What one side of a connection said, put together from its segments: bounded, first bytes win.

Pure: times are given, in nanoseconds of any clock that does not jump.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_WRAP: Final = 1 << 32  # RFC 9293 3.4: sequence numbers
PIECES_MAX: Final = 64  # of one stream
BYTES_MAX: Final = 16384  # of one stream
STREAMS_MAX: Final = 1024
TOTAL_MAX: Final = 512 << 10  # bytes of all streams
AGE_NS: Final = 10_000_000_000

Key = TypeVar("Key", bound=Hashable)


class Stream:
    """Bytes of one stream by their distance from the first one that was seen; pieces never overlap."""

    __slots__ = ("_base", "begun_ns", "done", "pieces", "size", "taken")

    def __init__(self, base: int, now_ns: int) -> None:
        """Begin at the sequence number `base`."""
        self._base = base
        self.begun_ns = now_ns
        self.pieces: dict[int, bytes] = {}
        self.size = 0
        self.taken = -_WRAP  # up to here it is read: it may yet turn out to have begun earlier
        self.done = False  # nothing more is wanted of it

    def add(self, sequence: int, data: bytes) -> None:
        """Put those bytes of a segment that are new to their place, as far as there is room."""
        # Signed: a segment may come after those behind it
        at = (sequence - self._base + _WRAP // 2) % _WRAP - _WRAP // 2
        end = at + len(data)
        begin = max(at, self.taken)
        for start in sorted(self.pieces):
            if start >= end:
                break
            self._keep(begin, data[begin - at : start - at] if start > begin else b"")
            begin = max(begin, start + len(self.pieces[start]))
        self._keep(begin, data[begin - at :] if begin < end else b"")

    def _keep(self, at: int, data: bytes) -> None:
        if data and len(self.pieces) < PIECES_MAX and self.size + len(data) <= BYTES_MAX:
            self.pieces[at] = data
            self.size += len(data)

    def runs(self) -> list[tuple[bytes, list[int]]]:
        """Give the bytes between gaps, in order, and where in each run pieces begin."""
        found: list[tuple[bytearray, list[int]]] = []
        end = None
        for at in sorted(self.pieces):
            if at != end:
                found.append((bytearray(), []))
                end = at
            joined, starts = found[-1]
            starts.append(len(joined))
            joined += self.pieces[at]
            end += len(self.pieces[at])
        return [(bytes(joined), starts) for joined, starts in found]

    def head(self) -> bytes:
        """Give all bytes before the first gap."""
        runs = self.runs()
        return runs[0][0] if runs else b""

    @property
    def has_gap(self) -> bool:
        """Say whether something is there behind what is missing."""
        return len(self.head()) < self.size

    def take(self, count: int) -> None:
        """Drop the first `count` bytes: they are read."""
        self.taken = min(self.pieces, default=0) + count
        kept: dict[int, bytes] = {}
        for at, piece in self.pieces.items():
            if at + len(piece) > self.taken:
                kept[max(at, self.taken)] = piece[max(self.taken - at, 0) :]
        self.pieces, self.size = kept, sum(map(len, kept.values()))

    def close(self) -> None:
        """Want nothing more; it stays known, so that what is sent again is not taken for new."""
        self.taken = max((at + len(piece) for at, piece in self.pieces.items()), default=self.taken)
        self.pieces, self.size, self.done = {}, 0, True


class Streams(Generic[Key]):
    """Streams by key, the oldest given up where they become too many, too large or too old."""

    def __init__(
        self, given_up: Callable[[Key], None], most: int = STREAMS_MAX, total: int = TOTAL_MAX
    ) -> None:
        """`given_up` is told of each one that has to go for another's sake while more was wanted of it."""
        self._given_up = given_up
        self._most = most
        self._total_max = total
        self._streams: OrderedDict[Key, Stream] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def total(self) -> int:
        """How many bytes wait in all streams."""
        return self._total

    def add(self, key: Key, sequence: int, data: bytes, now_ns: int) -> Stream:
        """Put a segment into the stream of this key, and keep the bounds."""
        found = self._streams.get(key)
        if found is None:
            found = self._streams[key] = Stream(sequence, now_ns)
        before = found.size
        if not found.done:
            found.add(sequence, data)
        self._total += found.size - before
        while len(self._streams) > self._most or self._total > self._total_max:
            oldest, gone = self._streams.popitem(last=False)
            self._total -= gone.size
            if not gone.done and gone.size:
                self._given_up(oldest)
        return found

    def take(self, key: Key, count: int, now_ns: int) -> None:
        """Drop what is read of a stream: it is young again."""
        found = self._streams.get(key)
        if found is not None:
            self._total -= found.size
            found.take(count)
            found.begun_ns = now_ns
            self._total += found.size
            self._streams.move_to_end(key)

    def close(self, key: Key) -> None:
        """Want nothing more of a stream."""
        found = self._streams.get(key)
        if found is not None:
            self._total -= found.size
            found.close()

    def drop(self, key: Key) -> None:
        """Forget a stream."""
        found = self._streams.pop(key, None)
        self._total -= found.size if found is not None else 0

    def tidy(self, now_ns: int) -> list[Key]:
        """Forget those that began longer than AGE_NS ago; returns which of them never came to an end."""
        unfinished = []
        while self._streams:
            key, first = next(iter(self._streams.items()))
            if now_ns - first.begun_ns < AGE_NS:
                break
            self.drop(key)
            if not first.done and first.size:
                unfinished.append(key)
        return unfinished
