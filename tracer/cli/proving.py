"""`tattle prove` and `verify`."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that the daemon stays small

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.cli.command import TARGETS, Command, add_engine, add_json, seconds

if TYPE_CHECKING:
    import argparse


def _add_prove(parser: argparse.ArgumentParser) -> None:
    parser.usage = "tattle prove [--target T] [--for SECONDS] [--report F] [options] [-- COMMAND...]"
    parser.add_argument("--target", metavar="TARGET", help="watch this; default: COMMAND and all it starts")
    parser.add_argument(
        "--for", dest="seconds", type=seconds, metavar="SECONDS", help="watch the target so long"
    )
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="write the report: JSON, or a page if FILE ends in .html; may be repeated",
    )
    parser.add_argument(
        "--html", action="append", default=[], type=Path, metavar="FILE", help="write the page for people"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="sign the report: an Ed25519 key, PEM")
    parser.add_argument("--make-key", type=Path, metavar="FILE", help="make such a key, and do nothing else")
    add_engine(parser)
    add_json(parser)


def _prove(arguments: argparse.Namespace) -> int:
    if arguments.make_key is not None:
        return _make_key(arguments.make_key)
    from tracer.proof.window import ProveOptions, prove

    options = ProveOptions(
        instance=arguments.instance,
        target=arguments.target,
        words=tuple(arguments.words),
        seconds=arguments.seconds,
        reports=tuple(arguments.report),
        pages=tuple(arguments.html),
        key=arguments.key,
        as_json=arguments.json,
        engine=arguments.engine,
    )
    return prove(options)


def _make_key(path: Path) -> int:
    import sys

    from tracer.model.text import escape
    from tracer.proof.signing import make_key

    fingerprint = make_key(path)
    sys.stdout.write(f"{escape(str(path))}: keep it; who trusts it needs this: {fingerprint}\n")
    return 0


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
    from tracer.proof.verify import verify

    return verify(arguments.report, arguments.trust, as_json=arguments.json)


COMMANDS: Final = (
    Command(
        "prove",
        "run a command, or watch a target, and say what left meanwhile",
        "Run COMMAND in a control group of its own, as the caller, and tell what it and all that it started "
        "sent; or watch a target while COMMAND runs, for some seconds, or until Ctrl-C. Programs of its own "
        "are attached for that, whether a daemon runs or not.\n\n"
        "The verdict is `egress` where anything went to the internet, the LAN or a multicast group, or a DNS "
        "query even to a resolver on this host. Loopback is none, nor are replies on connections that others "
        "made, nor is what a policy denied: these are listed apart. `incomplete` where anything was lost, a "
        "hook was detached, a table was full, or the command opened a socket that no hook sees (AF_PACKET "
        "...). Else it is `no-egress`. The page for people goes to standard error when a command ran, as its "
        f"own output goes to standard output.\n\n{TARGETS}",
        "  sudo tattle prove -- curl http://127.0.0.1:11434/api/tags\n"
        "  sudo tattle prove --report proof.json --report proof.html -- ollama run llama3.2 hello\n"
        "  sudo tattle prove --target ollama --for 60 --report proof.json\n"
        "  sudo tattle prove --target ollama -- curl -d @prompt.json http://127.0.0.1:11434/api/generate\n"
        "  sudo tattle prove --make-key prove.key\n"
        "  sudo tattle prove --key prove.key --report proof.json -- ./train.sh\n"
        "  tattle verify proof.json --trust sha256:...\n\n"
        "exit codes of prove:\n"
        "  0  no-egress\n"
        "  1  egress\n"
        "  4  incomplete; COMMAND's own exit code stands in the report",
        _add_prove,
        _prove,
    ),
    Command(
        "verify",
        "is a report of prove consistent, and its signature good",
        "Work the verdict and the totals out again from the flows, hooks and losses of the report, and check "
        "its digest and its signature. Without a signature a report that somebody changed with care cannot "
        "be told from a true one. Exits with 1, naming what, where something is wrong; the verdict itself "
        "does not matter to the exit code. Needs no root.",
        "  tattle verify proof.json\n"
        "  tattle verify proof.json --trust prove.key\n"
        "  openssl pkey -in prove.key -pubout -outform DER | sha256sum      the fingerprint",
        _add_verify,
        _verify,
    ),
)
