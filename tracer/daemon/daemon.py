"""The daemon's one loop, and what it does in it."""

from __future__ import annotations

import select
import selectors
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from exporters.http import auth
from exporters.logs import journald
from exporters.logs.jsonl import EventLog
from exporters.prometheus.series import Book
from tracer import config
from tracer.daemon import sdnotify
from tracer.daemon.control import Client, ControlServer, Door, notice_now
from tracer.daemon.notices import Notices
from tracer.daemon.worker import Task
from tracer.errors import NotRoot, TattleError, UsageError
from tracer.host.faults import SURVIVED, reason
from tracer.model.jsonlines import EVERYBODY, encode
from tracer.netlink.addresses import Changes
from tracer.notify.feed import DOOR
from tracer.session.greeting import sentence
from tracer.session.session import Line

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exporters.http.server import MetricsServer
    from exporters.pages.live import Page
    from tracer.daemon.helper import Helper
    from tracer.daemon.options import RunOptions
    from tracer.daemon.signals import Signals
    from tracer.daemon.switching import Switching
    from tracer.history.recorder import Recorder
    from tracer.session.greeting import Found
    from tracer.session.session import Core

log = structlog.get_logger("tattle")

DRAIN_S: Final = 0.05  # with a log or a watcher: events come at most so late
QUIET_S: Final = 0.2  # the same, where none has come for `BUSY_S`
BUSY_S: Final = 1.0
IDLE_S: Final = 0.5  # with neither: only to be there when the kernel's wake-up got lost
TIDY_S: Final = 30.0
_FIXED: Final = ("listen", "web", "limits", "history", "notify", "engine", "program_stats")  # need a restart


class Daemon:
    """The loop: ring, signals, control socket and timers in one thread; scrapes come from others."""

    def __init__(
        self,
        options: RunOptions,
        settings: config.Config,
        core: Core,
        signals: Signals,
        sink: journald.Journal | None = None,
    ) -> None:
        self._switching: Switching | None = None
        self._options = options
        self._settings = settings
        self._core = core
        self.have_done: Callable[[Task], None] = lambda _: None
        """Has something done that takes the privileges of the start."""
        self._denied = core.streams_denied()
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._stop = False
        self._told_at = 0.0
        self._control: ControlServer | None = None
        self._notices: Notices | None = None
        self._server: MetricsServer | None = None
        self._waker = select.epoll()
        self._addresses = Changes()
        accounts = core.accounts
        self._book = Book(
            accounts.registry,
            accounts.decoder,
            settings.metrics.max_destinations,
            core.namer,
            pid=settings.labels.pid,
        )
        accounts.on_settle(self._book.settle)
        self._log = self._open_log(settings.log_file)
        self._teller = journald.EventTeller(sink, accounts.count_lost) if sink else None
        self._page: Page | None = None
        self._recorder: Recorder | None = None
        self._troubles: list[str] = []
        self.found: list[Found] | None = None
        core.retarget(settings.watched)

    def _open_log(self, target: str | None) -> EventLog | None:
        return EventLog(target, self._core.accounts.count_lost, notice_now) if target else None

    def serve(self, listening: socket.socket, keys: auth.Keys, door: Path, helper: Helper | None) -> None:
        """Begin to answer: metrics, the control socket, the service manager, the human.

        Without a `helper` the page does not switch.
        """
        # Not before the hooks are attached: these take as long to import as the rest together
        from exporters.http.server import MetricsServer  # noqa: PLC0415
        from exporters.pages.live import Ask, Page  # noqa: PLC0415
        from exporters.prometheus.collector import Collector  # noqa: PLC0415

        core = self._core
        collector = Collector(
            core.accounts,
            self._book,
            core.accounts.decoder,
            core.engine.hooks,
            core.states,
        )
        kinds = (core.states, core.terms, core.refused, core.engine.hooks, self.ill, helper is not None)
        ask = Ask(*kinds, day=self._day)
        self._page = Page(core.accounts, ask, lambda: core.accounts.clock.boot_ns)
        self._server = MetricsServer(listening, keys)
        self._switching = self._switched(helper, keys)
        switch = self._switching.switch if self._switching else None
        self._server.start(collector, self.ill, self._page.assets(), switch)
        self._control = ControlServer(
            Door(door), self._selector, self._answer, core.accounts.count_lost, core.faults
        )
        with core.faults.survive("notices", str(door.with_name(DOOR))):  # nothing else depends on it
            groups = self._settings.notify.groups
            self._notices = Notices(door.with_name(DOOR), groups, self._selector, core, self._unattached)
        self._selector.register(self._signals.receiver, selectors.EVENT_READ, self._signalled)
        # Edge-triggered, in an epoll of its own: the ring is readable as long as anything is in it, but
        # only the kernel half's wake-up, at its fill mark, is a reason not to wait for the timer.
        for ring in (core.ring, core.namer.samples):
            self._waker.register(ring.fileno(), select.EPOLLIN | select.EPOLLET)
        self._selector.register(self._waker, selectors.EVENT_READ, lambda _: self._waker.poll(0))
        self._selector.register(self._addresses, selectors.EVENT_READ, self._readdressed)
        held = core.follow_containers()
        if held is not None:
            for one in (held.notices, held.answers):
                self._selector.register(one, selectors.EVENT_READ, self._appeared)
        self._record()
        sdnotify.notify("READY=1", f"STATUS=Page at {self._url()}, metrics at /metrics")
        self._greet()

    def _day(self) -> dict[str, Any]:
        from tracer.history.day import today  # noqa: PLC0415 - SQLite takes 2 MB

        return today(self._options.instance, [one.target for one in self._core.states()])

    def _switched(self, helper: Helper | None, keys: auth.Keys) -> Switching | None:
        """Return the page's switch; None where it has none."""
        if helper is None or self._server is None:
            return None
        from tracer.daemon.switching import Switching  # noqa: PLC0415 - with the server

        local = auth.is_loopback(config.address(self._settings.listen)[0])
        return Switching(helper, self._server.port, local=local, secure=keys.tls is not None)

    def _record(self) -> None:
        """Begin to write the history."""
        if not self._settings.history.enabled:
            return
        from tracer.history.recorder import Recorder  # noqa: PLC0415
        from tracer.history.store import FILE  # noqa: PLC0415 - SQLite takes 2 MB

        core = self._core
        path = core.engine.paths.state / FILE
        self._recorder = Recorder(core.accounts, path, self._settings.history, core.namer.refresh)
        self._recorder.start()

    def _greet(self) -> None:
        missing = self._core.engine.missing
        for hook in missing:
            log.warning("a hook is missing: what it sees is not counted", hook=hook)
        instance = "" if self._options.instance == "tattle" else f" --instance {self._options.instance}"
        sys.stderr.write(
            f"tattle: {len(self._core.engine.hooks()) - len(missing)} hooks attached,"
            f" page at {self._url()}, metrics at /metrics\n"
            f"tattle: see what this host's programs do now: sudo tattle watch{instance}\n"
        )
        if self.found is not None:
            sys.stderr.write(f"tattle: {sentence(self.found, self._url(), self._options.instance)}\n")
        sys.stderr.flush()

    def _url(self) -> str:
        scheme = "https" if self._settings.web.certificate else "http"
        return f"{scheme}://{self._settings.listen}/"

    def ill(self) -> list[str]:
        """Return what is wrong now, asked of the kernel, a line each; what cannot be asked is wrong, too."""
        try:
            return self._unattached() + self._unwritten()
        except SURVIVED as error:
            return [f"what is in force cannot be told: {reason(error)}"]

    def _unattached(self) -> list[str]:
        with self._core.accounts.lock:
            if self._core.accounts.closed:
                return ["tattle is stopping"]
            hooks = self._core.engine.hooks()
            policies = self._core.unenforced()
        return [f"hook {hook.hook} is not attached" for hook in hooks if not hook.attached] + policies

    def _unwritten(self) -> list[str]:
        trouble = self._recorder.trouble if self._recorder else ""
        return [f"the history cannot be written: {trouble}"] if trouble else []

    def loop(self) -> None:
        """Run until a signal ends it."""
        survive = self._core.faults.survive
        watchdog = sdnotify.watchdog_interval()
        tidy_at = alive_at = 0.0
        while not self._stop:
            listening = self._is_heard()
            for key, mask in self._selector.select(self._pause() if listening else IDLE_S):
                with survive("loop", "an answer"):
                    key.data(mask)
            if self._core.held is not None and self._core.held.again():
                with survive("loop", "containers"):
                    self._core.take_containers()
            with survive("loop", "events"):
                self._pump(listening=listening)
            self._cut_denied()
            now = time.monotonic()
            if now >= tidy_at:
                tidy_at = now + TIDY_S
                self._tidy()
            if watchdog and now >= alive_at:
                alive_at = now + watchdog
                sdnotify.notify("WATCHDOG=1")

    def _is_heard(self) -> bool:
        """Say whether a log, a watcher or a desktop wants events."""
        heard = (self._control and self._control.watchers, self._notices and self._notices.wanted)
        return bool(self._log or self._teller or any(heard))

    def _tidy(self) -> None:
        survive = self._core.faults.survive
        self._say_troubles()
        with survive("tidy", "what is kept"):
            self._core.tidy()
        if self._control is not None:
            self._control.listen()
        if self._notices is not None:
            with survive("tidy", "desktops"):
                self._notices.look()
        if self._page is not None:
            with survive("tidy", "the page"):
                self._page.sample()

    def _cut_denied(self) -> None:
        """Have connections ended that were denied for what they said, or kept for a request that is over.

        Their peers know of nothing else.
        """
        denied = self._core.streams_denied()
        if self._core.is_over() or denied != self._denied:
            self._denied = denied
            self.have_done(Task.CUT)

    def _pause(self) -> float:
        return DRAIN_S if time.monotonic() - self._told_at < BUSY_S else QUIET_S

    def _say_troubles(self) -> None:
        """Log what is wrong now and was not a while ago, and what is well again."""
        now = self.ill()
        for what in now:
            if what not in self._troubles:
                log.error(what, trouble=what)
        for what in self._troubles:
            if what not in now:
                log.info("no longer", problem=what)
        self._troubles = now

    def _pump(self, *, listening: bool) -> None:
        for lines in self._core.events(wanted=listening):
            self._tell(lines)
        self._tell([Line(EVERYBODY, text) for text in self._core.losses()])

    def _tell(self, lines: list[Line]) -> None:
        if lines:
            self._told_at = time.monotonic()
        if self._log is not None:
            self._log.write(line.text for line in lines)
        if self._teller is not None:
            self._teller.tell(line.text for line in lines)
        if self._control is not None:
            for line in lines:
                self._control.publish(line.who, line.text)
            self._control.flush(notice_now)
        if self._notices is not None:
            self._notices.publish(lines)
            self._notices.flush(notice_now)

    def _signalled(self, _: int) -> None:
        for number in self._signals.take():
            if number == signal.SIGHUP:
                self._reload()
            else:
                self._stop = True

    def _appeared(self, _: int) -> None:
        """Take in what is new; resolvers are looked for meanwhile, and again when it is known whose it is."""
        tasks = (Task.LOOK,) if self._core.asks_names else ()
        for task in tasks:
            self.have_done(task)
        self._core.take_containers()
        for task in tasks:
            self.have_done(task)

    def _readdressed(self, _: int) -> None:
        if self._addresses.take():
            self._core.know_addresses()

    def _reload(self) -> TattleError | None:
        """Read the configuration again; returns, and logs, what of it is not in force now."""
        sdnotify.reloading()
        refused: TattleError | None = None
        try:
            fresh = self._options.effective()
            self._core.targeting.find(fresh.watched, absent_ok=True)
            self._relog(fresh)
        except TattleError as error:
            refused = error
            log.error("the old configuration stays", error=error.message, hint=error.hint)  # noqa: TRY400 - no traceback
        else:
            self._take(fresh)
            refused = self._police(fresh)
            log.info("configuration read again")
        sdnotify.notify("READY=1")
        return refused

    def _police(self, fresh: config.Config) -> TattleError | None:
        """Put targets and policies in force, and have open connections cut that these deny."""
        try:
            failures = self._core.restore(fresh.policies())
            self._core.retarget(fresh.watched)
            self.have_done(Task.MARK)
            self.have_done(Task.CUT)
        except TattleError as error:
            log.error("targets and policies stay as they are", error=error.message, hint=error.hint)  # noqa: TRY400
            return error
        return failures[0] if failures else None

    def _relog(self, fresh: config.Config) -> None:
        if fresh.log_file == self._settings.log_file and self._log is not None:
            self._log.reopen()
            return
        new = self._open_log(fresh.log_file)
        if self._log is not None:
            self._log.close()
        self._log = new

    def _take(self, fresh: config.Config) -> None:
        for name in _FIXED:
            if getattr(fresh, name) != getattr(self._settings, name):
                log.warning("a setting has changed: restart tattle to have it applied", setting=name)
        maps = self._core.engine.maps
        maps.settings = maps.settings._replace(loopback=int(fresh.observe.loopback))
        self._book.max_destinations = fresh.metrics.max_destinations
        if fresh.labels.pid != self._settings.labels.pid:
            log.warning("a setting has changed: restart tattle to have it applied", setting="labels.pid")
        self._settings = fresh

    def _answer(self, question: dict[str, Any], client: Client) -> Iterator[bytes]:
        """Answer a question of the control socket; raises TattleError for what cannot be answered."""
        wants = self._core.targeting.chooser([str(text) for text in question.get("targets") or ()])
        answers: dict[object, Callable[[], Iterator[bytes]]] = {
            "flows": lambda: self._flows(question, wants),
            "watch": lambda: self._watch(client, wants),
            "policies": self._policies,
            "open": lambda: self._open(question, client),
            "reload": self._reloaded,
        }
        if question.get("ask") not in answers:
            raise UsageError(
                f"nobody answers {question.get('ask')!r} here", "client and daemon are of two versions"
            )
        return answers[question["ask"]]()

    def _flows(self, question: dict[str, Any], wants: Any) -> Iterator[bytes]:  # noqa: ANN401 - a chooser or None
        head, rows = self._core.accounts.view(wants, int(question.get("newest") or 0))
        asked = [str(text) for text in question.get("targets") or ()]
        head["covered_since"] = self._core.covered_since(asked) if asked else head["since"]
        head["same_program"] = self._core.before(asked)
        core = self._core
        head["refused"] = core.refused() + core.refused_addresses() + core.refused_for_now()
        yield encode(head) + b"\n"
        for row in rows:
            yield encode(row) + b"\n"
        yield b'{"end":true}\n'

    def _policies(self) -> Iterator[bytes]:
        """Somebody has blocked or unblocked a target: read again who has which name."""
        self._core.retarget(self._settings.watched)
        return iter([b'{"end":true}\n'])

    def _reloaded(self) -> Iterator[bytes]:
        if refused := self._reload():
            raise refused
        return iter([b'{"end":true}\n'])

    def _open(self, question: dict[str, Any], client: Client) -> Iterator[bytes]:
        """Answer with a one-time link to the page, for root alone."""
        if client.uid != 0:
            raise NotRoot("only root may open the page's switch", "run it with sudo")
        if self._switching is None:
            raise UsageError(
                "the page of this daemon does not switch", "see [web] control in /etc/tattle/tattle.toml"
            )
        return iter([encode(self._switching.open(question, self._url())) + b"\n"])

    def _watch(self, client: Client, wants: Any) -> Iterator[bytes]:  # noqa: ANN401
        client.wants = wants or (lambda _: True)
        return iter([b'{"watching":true}\n'])

    def close(self) -> None:
        """Hang up, and write what waits for the log."""
        if self._server is not None:
            self._server.close()
        if self._control is not None:
            self._control.close()
        if self._notices is not None:
            self._notices.close()
        if self._recorder is not None:
            self._recorder.close()
        if self._log is not None:
            self._pump(listening=True)
            self._log.close()
        self._waker.close()
        self._addresses.close()
        self._selector.close()
