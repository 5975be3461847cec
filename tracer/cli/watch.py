"""`tattle watch`: by the running daemon if there is one, else by programs of its own."""

from __future__ import annotations

import select
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from tracer.cli.command import NAMES, TARGETS, Command, add_engine, add_flows, seconds
from tracer.daemon import control
from tracer.errors import DaemonAbsent
from tracer.model.jsonlines import decode
from tracer.session.session import Core, own_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

Json = dict[str, Any]

DRAIN_S: Final = 0.05
TIDY_S: Final = 2.0


class Source(Protocol):
    """Where events and flows come from."""

    name: str

    def lines(self, until: float) -> Iterator[list[bytes]]: ...  # noqa: D102 - batches of events, maybe empty
    def snapshot(self, newest: int) -> tuple[Json, list[Json]]: ...  # noqa: D102


class Remote:
    """The daemon, over its socket."""

    name = "daemon"

    def __init__(self, instance: str, targets: list[str]) -> None:
        """Ask at once, so that an absent daemon or target shows here."""
        self._instance = instance
        self._targets = targets
        self._path = control.socket_path(instance)
        self.snapshot(1)

    def lines(self, until: float) -> Iterator[list[bytes]]:
        """Yield batches of events until the time `until` (monotonic seconds)."""
        question = {"ask": "watch", "targets": self._targets}
        return control.stream(self._path, question, self._instance, until)

    def snapshot(self, newest: int) -> tuple[Json, list[Json]]:
        """Give the head and the flows seen last."""
        question = {"ask": "flows", "targets": self._targets, "newest": newest}
        answer = list(control.ask(self._path, question, self._instance))
        if not answer or "end" not in answer[-1]:
            raise DaemonAbsent(
                f"the daemon '{self._instance}' ended while it was asked", "start it: tattle run"
            )
        return answer[0], answer[1:-1]


class Local:
    """Programs of our own, attached without pins; gone with us."""

    name = "no daemon, own programs"

    def __init__(self, instance: str, targets: list[str], engine: str | None) -> None:
        """Attach; the targets are told to the kernel, so that their loopback and phases are seen too."""
        self._core = Core(own_options(instance, engine), None, early=targets)
        self._tidy_at = 0.0
        try:
            self._core.retarget(targets)
            self._wants = self._core.targeting.chooser(targets)
        except BaseException:
            self._core.close()
            raise

    def lines(self, until: float) -> Iterator[list[bytes]]:
        """Yield batches of events until the time `until` (monotonic seconds)."""
        wants = self._wants or (lambda _: True)
        while time.monotonic() < until:
            select.select([], [], [], min(DRAIN_S, max(until - time.monotonic(), 0)))
            for batch in self._core.events(wanted=True):
                yield [line.text for line in batch if wants(line.who)]
            yield list(self._core.losses())
            self._tidy()

    def snapshot(self, newest: int) -> tuple[Json, list[Json]]:
        """Give the head and the flows seen last."""
        self._core.ring.drain()
        self._core.namer.drain(wanted=False)
        self._tidy()
        head, rows = self._core.accounts.view(self._wants, newest)
        return head, list(rows)

    def _tidy(self) -> None:
        """Do now and then what the daemon does: make room, and recognize runtimes that were not there yet."""
        if time.monotonic() >= self._tidy_at:
            self._core.tidy()
            self._tidy_at = time.monotonic() + TIDY_S

    def close(self) -> None:
        """Take the programs out of the kernel."""
        self._core.close()


@dataclass(frozen=True)
class WatchOptions:
    """What was asked: `seconds` None is until Ctrl-C; `engine` makes the programs where no daemon runs."""

    instance: str
    targets: list[str]
    as_json: bool
    seconds: float | None
    addresses: bool = False
    engine: str | None = None


def watch(options: WatchOptions) -> int:
    """Show what happens until interrupted, or for so many seconds; returns the exit code."""
    with ExitStack() as stack:
        source: Source
        try:
            source = Remote(options.instance, options.targets)
        except DaemonAbsent:
            source = local = Local(options.instance, options.targets, options.engine)
            stack.callback(local.close)
        until = time.monotonic() + options.seconds if options.seconds is not None else float("inf")
        addresses = options.addresses
        try:
            if options.as_json or not sys.stdout.isatty():
                _write(source, until, None if options.as_json else partial(_as_text, addresses=addresses))
            else:
                from tracer.cli.live import Table, show

                show(Table(source, options.instance, options.engine, addresses=addresses), until)
        except KeyboardInterrupt:
            return 0
    return 0


def _write(source: Source, until: float, text: Callable[[bytes], bytes] | None) -> None:
    """Write events as they come: their JSON, or what `text` makes of it."""
    sys.stderr.write(f"tattle: watching ({source.name})\n")
    out = sys.stdout.buffer
    for batch in source.lines(until):
        if batch:
            out.write(b"".join(batch if text is None else map(text, batch)))
            out.flush()


def _as_text(line: bytes, *, addresses: bool) -> bytes:
    from exporters.terminal.views import event_text

    return event_text(decode(line), addresses=addresses).encode("utf-8", "replace") + b"\n"


def _add_watch(parser: argparse.ArgumentParser) -> None:
    add_flows(parser)
    parser.add_argument("--for", dest="seconds", type=seconds, metavar="SECONDS", help="end after so long")
    add_engine(parser)


def _watch(arguments: argparse.Namespace) -> int:
    options = WatchOptions(
        arguments.instance,
        arguments.targets,
        as_json=arguments.json,
        seconds=arguments.seconds,
        addresses=arguments.addresses,
        engine=arguments.engine,
    )
    return watch(options)


COMMAND: Final = Command(
    "watch",
    "what this host's programs send now, live",
    "A live table of who sends how much to whom, newest first; one line an event where output is no "
    "terminal. On a terminal its last line says what the keys do: pause, sort, filter, select, and block the "
    "selected line's target (as root, with a daemon, after a question). Works with and without a running "
    f"daemon. {NAMES} {TARGETS}",
    "  sudo tattle watch\n  sudo tattle watch ollama\n  sudo tattle watch --json --for 10 > events.jsonl",
    _add_watch,
    _watch,
)
