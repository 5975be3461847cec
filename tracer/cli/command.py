"""What a command is, and what several of them share."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracer.daemon import control

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from tracer.history.query import Past

TARGETS: Final = """\
A TARGET is a runtime's name (ollama), exe:NAME, exe:/PATH, unit:NAME, cgroup:/PATH, pid:N or container:NAME.
A runtime, an exe or a pid are processes and all that they start, wherever they run, and not their neighbours;
a unit, a cgroup or a container is all that is in it. In container:NAME, container:PROJECT/SERVICE and
container:NAMESPACE/POD/CONTAINER, and within a part of cgroup:/PATH, * is any text. Not told apart: a TCP
connection that another program has opened and handed over."""

NAMES: Final = """\
A destination goes by its name where one is known: a|b could be either, and a name with a question mark was
told to another process, or its time is over."""

TIMES: Final = """\
A time is how long ago (90m, 24h, 7d), or a day or time: '2026-01-31 22:00' is this host's, and
2026-01-31T22:00:00Z in UTC. History is kept by the hour: one of which a part is asked for counts whole."""


@dataclass(frozen=True)
class Command:
    """One command: `add` declares its options, `run` does it and returns the exit code."""

    name: str
    summary: str
    description: str
    examples: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Declare the operands TARGET... and --json."""
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="only these; default: everything")
    add_json(parser)


def add_flows(parser: argparse.ArgumentParser) -> None:
    """Declare what `flows` and `watch` have in common."""
    add_targets(parser)
    parser.add_argument("--addresses", action="store_true", help="the addresses of named destinations, too")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="JSON instead of text for people")


def add_times(parser: argparse.ArgumentParser, since: str) -> None:
    """Declare --since."""
    parser.add_argument(
        "--since", default=since, metavar="TIME", help=f"from when on, or how long ago; default: {since}"
    )


def known(past: Past) -> Past:
    """Return what history tells with what only the running daemon can: since when the target is known."""
    if past.target is None or past.known_since is not None:
        return past
    return past._replace(known_since=control.known_since(past.instance, past.target))


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Declare --engine."""
    parser.add_argument(
        "--engine",
        choices=("libbpf", "bcc"),
        help="who makes the programs; bcc compiles them on this host (python3-bpfcc); default: what the "
        "configuration says, else libbpf",
    )


def seconds(text: str) -> float:
    """Read a time of `--for`; ValueError for what is none."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def told(code: int, tell: Callable[[], object]) -> int:
    """Have a verdict told and return its exit code, also where the reader leaves before all is told."""
    try:
        tell()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:
        hush()
    return code


def hush() -> None:
    """Write no more where the reader has left: Python would complain once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def print_json(document: object) -> int:
    """Write a document as one line of JSON; returns the exit code 0."""
    json.dump(document, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0
