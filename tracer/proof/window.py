"""`tattle prove`: what left while a command ran or a target was watched, and whether that is all of it.

The verdict rests on programs of its own (observer.py), on links that were the same before and after, on
loss counters that did not move, and on what the target holds open that no hook sees (sockets.py, seccomp.py).
What follows from all that is worked out in evidence.py, for `verify`, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tracer import __version__
from tracer.command.child import Cgroup, Child, Signals
from tracer.errors import TattleError
from tracer.host.cgroups import cgroup2_root
from tracer.model.records import timestamp
from tracer.model.text import escape
from tracer.proof import canonical, evidence, limits
from tracer.proof.observer import Enforcing, Witness
from tracer.proof.seccomp import CallListener
from tracer.proof.sockets import Holdings, who
from tracer.targets.finder import Finder
from tracer.targets.proxies import of_command, of_target

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tracer.targets.proxies import Proxy

Json = dict[str, Any]

DRAIN_S: Final = 0.05
_FAR: Final = 3600.0  # sigtimedwait(2) takes no infinite time
_PAUSES: Final = 20  # a look at processes is followed by a pause so many times as long


@dataclass(frozen=True)
class ProveOptions:
    """What was asked: a command (`words`), or a target, or both; `seconds` None is until Ctrl-C."""

    instance: str
    target: str | None
    words: tuple[str, ...]
    seconds: float | None
    engine: str | None = None


def observe(options: ProveOptions, key: Ed25519PrivateKey | None) -> Json:
    """Watch to the end of the window and return its report, signed if there is a key."""
    with Signals() as signals, contextlib.ExitStack() as stack:
        report = _Window(options, signals, stack).report()
    return _sealed(report, key)


class _Before(NamedTuple):
    """How things stood when the window began."""

    start: str
    links: dict[str, tuple[int, int]]
    processes: int


class _Window:
    """The time that is proved; everything is put up in `stack`, and taken away with it."""

    def __init__(self, options: ProveOptions, signals: Signals, stack: contextlib.ExitStack) -> None:
        self._options = options
        self._signals = signals
        root = cgroup2_root()
        self._cgroup: Cgroup | None = None
        selector = options.target
        if selector is None:
            self._cgroup = stack.enter_context(Cgroup(root, Finder(root).cgroup_of("self")))
            selector = f"cgroup:{self._cgroup.path}"
        self._witness = stack.enter_context(Witness(options.instance, selector, options.engine))
        self._enforcing = Enforcing(options.instance, selector, self._witness.cgroups)
        self._holdings = Holdings(self._witness.engine, self._witness.cgroups, self._witness.ours)
        self._calls = CallListener(self._holdings.add_call, self._expect_clients)
        self._next_look = 0.0
        self._proxies: list[Json] = []
        self._child: Child | None = None

    def report(self) -> Json:
        """Run the window to its end and say what was in it."""
        before = self._begin()
        if self._options.words:
            self._start()
        self._run()
        self._witness.settle(self._signals.wait)
        self._holdings.look()
        self._follow()
        end = timestamp(time.time_ns())
        self._witness.finish()
        return self._observed(before, end)

    def _begin(self) -> _Before:
        if self._cgroup is not None:
            self._holdings.look_at_own(range(3))
        self._holdings.look()
        self._proxies = [proxy.document for proxy in self._told_to_use()]
        links = self._witness.engine.links()
        count = len(self._holdings.processes())
        return _Before(self._witness.begin(), links, count)

    def _told_to_use(self) -> tuple[Proxy, ...]:
        """Return the proxies of the target, or of the command, which gets this process's environment."""
        if self._options.target is not None:
            return of_target(Finder(cgroup2_root()), self._options.target)
        return of_command()

    def _start(self) -> None:
        if self._cgroup is None:
            self._child = Child(self._options.words, None, self._signals)
        else:
            words, place = self._options.words, self._cgroup.directory
            self._child = Child(words, place, self._signals, self._calls.install)
            self._calls.listen()
            self._witness.recognize()

    def _run(self) -> None:
        seconds = self._options.seconds
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        while time.monotonic() < until and not (self._child is not None and self._child.ended()):
            told = self._signals.wait(min(DRAIN_S, until - time.monotonic()))
            if told is not None and (self._child is None or self._child.handle(told)):
                return
            self._witness.drain()
            self._look()

    def _expect_clients(self) -> None:
        """Recognise a program that is about to listen; where that fails, the next look tries again."""
        with contextlib.suppress(TattleError, OSError):
            self._witness.recognize()

    def _look(self) -> None:
        begun = time.monotonic()
        if begun >= self._next_look:
            self._holdings.look()
            self._witness.recognize()
            now = time.monotonic()
            self._next_look = now + _PAUSES * (now - begun)

    def _follow(self) -> None:
        """Look for processes of the command that left its cgroup: root may do that, and they then sent."""
        if self._cgroup is None or self._child is None:
            return
        for flow in self._witness.strayed(self._holdings.seen | {self._child.pid}):
            what = f"left for the control group {flow['cgroup']} and sent to {flow['remote_addr']} from there"
            self._holdings.add({"pid": flow["pid"], "comm": flow["comm"], "what": what})

    def _observed(self, before: _Before, end: str) -> Json:
        witness, engine = self._witness, self._witness.engine
        flows = evidence.with_denials(witness.flows(), self._enforcing.denied())
        after, hooks = engine.links(), engine.hooks()
        running = [who(pid) for pid in self._holdings.processes()] if self._cgroup else []
        report: Json = {
            "format": evidence.FORMAT,
            "window": {"start": before.start, "end": end},
            "command": [escape(word) for word in self._options.words] or None,
            "exit_code": self._child.exit_code if self._child else None,
            "target": self._options.target,
            "cgroups": [escape(path) for path in witness.cgroups],
            "proxies": self._proxies,
            "flows": flows,
            "requests": witness.requests,
            "preexisting_sockets": self._holdings.sockets,
            "unseen": self._holdings.unseen,
            "hooks": [_hook(hook._asdict(), before.links, after) for hook in hooks],
            "maps": [size._asdict() for size in engine.maps.sizes()],
            "losses": witness.core.accounts.losses(),
            "left_running": running,
            "denials_from": self._enforcing.instance,
            "limits": limits.tell(self._facts(before, running)),
            "timeline": {
                "samples": [list(sample) for sample in witness.samples],
                "marks": witness.marks,
                "more_marks": witness.more_marks,
                "more_requests": witness.more_requests,
            },
            "tool": {
                "version": __version__,
                "engine": engine.made_by,
                "object_sha256": engine.object_sha256,
                "files_sha256": _files_sha256(),
            },
            "kernel": platform.release(),
        }
        report = evidence.whole(report)
        return dict.fromkeys(("verdict", "reasons")) | report | evidence.conclude(report)

    def _facts(self, before: _Before, running: list[Json]) -> limits.Facts:
        return limits.Facts(
            wrapped=self._cgroup is not None,
            listened=self._calls.active,
            looks=self._holdings.looks,
            empty=self._cgroup is None and not before.processes,
            powers={name: sorted(held) for name, held in sorted(self._holdings.powers.items())},
            running=len(running),
            notes=[self._enforcing.note] if self._enforcing.note else [],
        )


def _hook(hook: Json, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> Json:
    was, now = before.get(hook["hook"], (0, 0)), after.get(hook["hook"], (0, 0))
    return hook | {"program_id": now[1], "link_id_before": was[0], "program_id_before": was[1]}


def _files_sha256() -> str:
    """Give one hash over the Python files of this tool, by path and content."""
    root = Path(__file__).parents[2]
    found = hashlib.sha256()
    for path in sorted([*root.glob("tracer/**/*.py"), *root.glob("exporters/**/*.py")]):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{path.relative_to(root)}\0{content}\n".encode())
    return found.hexdigest()


def _sealed(report: Json, key: Ed25519PrivateKey | None) -> Json:
    sealed = canonical.seal(report)
    if key is None:
        return sealed
    from tracer.proof import signing  # noqa: PLC0415 - the library is for those who sign

    return signing.sign(sealed, key)
