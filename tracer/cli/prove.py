"""`tattle prove`: run a command, or watch a target, and report what left meanwhile."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.cli.command import TARGETS, Command, add_engine, add_json, print_json, seconds, told
from tracer.errors import HostError, UsageError
from tracer.model.text import escape
from tracer.proof import evidence
from tracer.proof.window import ProveOptions, observe

if TYPE_CHECKING:
    import argparse

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Json = dict[str, Any]

_HTML: Final = frozenset({".html", ".htm"})


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
    _check(arguments)
    options = ProveOptions(
        instance=arguments.instance,
        target=arguments.target,
        words=tuple(arguments.words),
        seconds=arguments.seconds,
        engine=arguments.engine,
    )
    report = observe(options, _key(arguments.key))
    _write_all(report, arguments)
    return told(evidence.EXIT_CODES[report["verdict"]], lambda: _print(report, arguments))


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what makes no sense, before anything is attached or started."""
    if not arguments.words and arguments.target is None:
        raise UsageError(
            "nothing to prove: no command and no target", "tattle prove -- COMMAND, or --target T"
        )
    if arguments.words and arguments.seconds is not None:
        raise UsageError("--for and a command: which one ends it?", "give one of them")
    for path in (*arguments.report, *arguments.html):
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise HostError(
                f"the report {escape(str(path))} cannot be written", "give a path in a directory that exists"
            )


def _key(path: Path | None) -> Ed25519PrivateKey | None:
    if path is None:
        return None
    from tracer.proof import signing

    return signing.load_key(path)


def _make_key(path: Path) -> int:
    from tracer.proof.signing import make_key

    fingerprint = make_key(path)
    sys.stdout.write(f"{escape(str(path))}: keep it; who trusts it needs this: {fingerprint}\n")
    return 0


def _write_all(report: Json, arguments: argparse.Namespace) -> None:
    for path in arguments.report:
        _write(path, _page(report) if path.suffix.lower() in _HTML else _text(report))
    for path in arguments.html:
        _write(path, _page(report))


def _print(report: Json, arguments: argparse.Namespace) -> None:
    """Print what was asked for; the page for people goes where the command's own output does not."""
    if arguments.json:
        print_json(report)
        return
    from exporters.terminal.proof import print_proof

    print_proof(report, to_stderr=bool(arguments.words))


def _text(report: Json) -> str:
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def _page(report: Json) -> str:
    from exporters.pages.proof import page

    return page(report)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        mend = "give a path that can be written"
        raise HostError(f"the report {escape(str(path))} cannot be written: {error.strerror}", mend) from None


COMMAND: Final = Command(
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
)
