"""Throws spoiled bytes at everything that reads what strangers send, for as long as it is told: `make fuzz`.

It starts from the files of corpus/, changes, cuts and joins them, and keeps what makes a reader go a new way
(lines that were not run before). What raises an error is written to corpus/ under the name of its reader, for
test_fuzz.py to try from then on; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.host import hosts_file
from tracer.model.text import dotted, host
from tracer.names import dns, quic, tls
from tracer.names.reassembly import Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

CORPUS: Final = Path(__file__).parent / "corpus"
SIZE_MAX: Final = 4096
ODD: Final = (
    b"\0",
    b"\xff",
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\x3f",
    b"\x40",
    b"\x16\x03\x01",
    b"\xff\xff\xff\xff",
    b"\r\n",
)


def read_dns(data: bytes) -> None:
    """Read a message, whole and cut, and messages behind their lengths."""
    dns.parse(data)
    dns.parse(data, cut=True)
    dns.messages(data)


def read_hello(data: bytes) -> None:
    """Read a client's first words, segments beginning anywhere."""
    tls.read(data, (0, len(data) // 3, len(data) // 2))
    tls.hello_message(data)


def read_quic(data: bytes) -> None:
    """Read datagrams of one connection, and the same bytes as frames."""
    initials = quic.Initials(lambda: None)
    initials.read(1, data, 0)
    initials.read(1, data[len(data) // 2 :], 0)
    quic.pieces(data)


def read_text(data: bytes) -> None:
    """Read names, a hosts file, and segments that overlap."""
    dotted(data)
    host(data.split(b"."))
    hosts_file.parse(data)
    stream = Stream(0, 0)
    for at in range(0, len(data), 7):
        stream.add(int.from_bytes(data[at : at + 4]), data[at : at + 50])
    stream.take(min(len(stream.head()), 5))


READERS: Final[dict[str, Callable[[bytes], None]]] = {
    "dns": read_dns,
    "hello": read_hello,
    "quic": read_quic,
    "text": read_text,
}


def changed(data: bytes, other: bytes, source: random.Random) -> bytes:
    """Spoil `data` in one to six places, sometimes by parts of `other`."""
    spoiled = bytearray(data)
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(spoiled) + 1)
        size = source.choice((1, 1, 2, 4, 16, 64))
        start = source.randrange(len(other) + 1)
        new = source.choice(
            (
                source.choice(ODD),
                source.randbytes(size),
                other[start : start + size],
                b"",
                bytes(spoiled[at : at + size]) * 2,
            )
        )
        spoiled[at : at + source.choice((0, len(new), size))] = new
    return bytes(
        spoiled[: source.choice((SIZE_MAX, SIZE_MAX, source.randrange(len(spoiled) + 1)))][:SIZE_MAX]
    )


class Lines:
    """Which lines of tracer/ a call has run: a trace function as sys.settrace wants it."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int]] = set()
        self.fresh = False

    def __call__(self, frame: FrameType, event: str, _: object) -> Lines | None:
        """Note a line."""
        if event == "call" and "tracer" not in frame.f_code.co_filename:
            return None
        place = (frame.f_code, frame.f_lineno)
        if place not in self.seen:
            self.seen.add(place)
            self.fresh = True
        return self


def attempt(reader: Callable[[bytes], None], data: bytes, lines: Lines) -> str | None:
    """Read once; returns the traceback of what was raised."""
    lines.fresh = False
    sys.settrace(lines)
    try:
        reader(data)
    except Exception:  # noqa: BLE001 - whatever it is: that is the question
        return traceback.format_exc()
    finally:
        sys.settrace(None)
    return None


def fuzz(name: str, seconds: float, source: random.Random) -> tuple[int, int]:
    """Try one reader; returns how often, and how many new ways were found. Raises SystemExit on an error."""
    pool = [path.read_bytes() for path in sorted(CORPUS.glob(f"{name}-*"))] or [b""]
    lines, tries, found = Lines(), 0, 0
    until = time.monotonic() + seconds
    for data in list(pool):
        attempt(READERS[name], data, lines)
    while time.monotonic() < until:
        data = changed(source.choice(pool), source.choice(pool), source)
        tries += 1
        if error := attempt(READERS[name], data, lines):
            path = CORPUS / f"{name}-error-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            sys.exit(f"{error}\nfuzz: {name}: the bytes are in {path}")
        if lines.fresh:
            pool.append(data)
            found += 1
    return tries, found


def main() -> None:
    """Try all readers for the same time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="in all (default: 4)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="to have the same again")
    known = parser.parse_args()
    for name in READERS:
        source = random.Random(known.seed)  # noqa: S311 - bytes to spoil, not to keep secret
        tries, found = fuzz(name, known.minutes * 60 / len(READERS), source)
        print(f"fuzz: {name}: {tries} tries, {found} new ways, no error (seed {known.seed})", flush=True)


if __name__ == "__main__":
    main()
