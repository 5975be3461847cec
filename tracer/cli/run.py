"""`tattle run`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from tracer.cli.command import Command, add_engine
from tracer.cli.perform import performer
from tracer.daemon.options import RunOptions
from tracer.daemon.start import run


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: /etc/tattle/tattle.toml, if there is one"
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="of the page and the metrics; default: 127.0.0.1:9753"
    )
    parser.add_argument("--token-file", metavar="FILE", help="ask for the token in this file")
    parser.add_argument("--certificate", metavar="FILE", help="serve by TLS: the certificate chain, PEM")
    parser.add_argument("--key", metavar="FILE", help="the certificate's key, PEM")
    parser.add_argument(
        "--insecure", action="store_true", help="listen beyond loopback without a token or without TLS"
    )
    parser.add_argument(
        "--target", action="append", default=[], metavar="TARGET", help="what to name; may be repeated"
    )
    parser.add_argument(
        "--log-file", metavar="FILE", help="events, one JSON object a line; - is standard output"
    )
    parser.add_argument(
        "--loopback", action="store_true", help="count loopback of all processes, not of targets only"
    )
    parser.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="HOOK",
        help="go on without this hook if it is refused",
    )
    add_engine(parser)
    parser.add_argument("--object", type=Path, metavar="FILE", help=argparse.SUPPRESS)


def _run(arguments: argparse.Namespace) -> int:
    options = RunOptions(
        instance=arguments.instance,
        config_file=arguments.config,
        listen=arguments.listen,
        log_file=arguments.log_file,
        targets=tuple(arguments.target),
        loopback=arguments.loopback,
        allow_missing=frozenset(arguments.allow_missing),
        object_path=arguments.object,
        token_file=arguments.token_file,
        certificate=arguments.certificate,
        key=arguments.key,
        insecure=arguments.insecure,
        engine=arguments.engine,
    )
    return run(options, performer(arguments.instance, arguments.engine))


COMMAND: Final = Command(
    "run",
    "the daemon: watch this host, export metrics, show a page, write the event log",
    "Load the programs, attach them, and stay in the foreground until SIGINT or SIGTERM; then nothing is "
    "left attached, unless a target is blocked. SIGHUP reads the configuration again. Speaks to systemd "
    "(Type=notify). A page for people is at http://127.0.0.1:9753/; to be reached from the network it "
    "needs a token and TLS.",
    "  sudo tattle run\n  sudo tattle run --target ollama --log-file /var/log/tattle/events.jsonl\n"
    "  sudo tattle run --listen 0.0.0.0:9753 --token-file /etc/tattle/token "
    "--certificate cert.pem --key key.pem",
    _add_run,
    _run,
)
