"""`tattle verify`: is a report of prove consistent, and its signature good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.cli.command import Command, add_json, print_json, told
from tracer.proof.verify import Finding, examine, read

if TYPE_CHECKING:
    import argparse


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("report", type=Path, metavar="REPORT", help="the JSON file of tattle prove --report")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="whose signature it must have: a fingerprint or a file with the key; may be repeated",
    )
    add_json(parser)


def _verify(arguments: argparse.Namespace) -> int:
    found = examine(read(arguments.report), arguments.trust)
    return told(1 if found.wrong else 0, lambda: _print(found, as_json=arguments.json))


def _print(found: Finding, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "good": not found.wrong,
                "wrong": list(found.wrong),
                "verdict": found.report.get("verdict"),
                "signed_by": found.signer,
                "trusted": found.known,
            }
        )
    else:
        from exporters.terminal.proof import print_check

        print_check(found.report, found.wrong, found.signer, known=found.known)


COMMAND: Final = Command(
    "verify",
    "is a report of prove consistent, and its signature good",
    "Work the verdict and the totals out again from the flows, hooks and losses of the report, and check "
    "its digest and its signature. Without a signature a report that somebody changed with care cannot "
    "be told from a true one. Exits with 1, naming what, where something is wrong; the verdict itself "
    "does not matter to the exit code. A report of another format (the key `format`) is refused with 2: the "
    "version that wrote it verifies it. Needs no root.",
    "  tattle verify proof.json\n"
    "  tattle verify proof.json --trust prove.key\n"
    "  openssl pkey -in prove.key -pubout -outform DER | sha256sum      the fingerprint",
    _add_verify,
    _verify,
)
