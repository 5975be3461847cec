"""What a command is, and what several of them share."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

TARGETS: Final = """\
A TARGET is a runtime's name (ollama), unit:NAME, cgroup:/PATH, pid:N or container:NAME."""


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


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="JSON instead of text for people")


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


def print_json(document: object) -> int:
    """Write a document as one line of JSON; returns the exit code 0."""
    json.dump(document, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0
