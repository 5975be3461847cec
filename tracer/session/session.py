"""What `run` and a `watch` of its own share: the engine with everything that reads it, composed once."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from tracer import config
from tracer.bpf.engine import Engine, EngineOptions
from tracer.bpf.maps.members import MemberMaps
from tracer.containers.engines import ContainerEngines
from tracer.host.cgroups import cgroup2_root
from tracer.host.clock import BootClock
from tracer.host.faults import SURVIVED, Faults
from tracer.model.jsonlines import encode, notice
from tracer.model.records import Decoder, denials, timestamp
from tracer.model.scope import Scope
from tracer.model.status import OBSERVE, TargetState, Terms
from tracer.model.text import escape
from tracer.names.observer import Namer
from tracer.names.refusals import NAMES_MAX, allowing, allowing_address, opens, outlived
from tracer.policy.enforcement import Enforcement
from tracer.policy.rules import compile_policy
from tracer.runtimes.purposes import Purposes
from tracer.session.flows import Accounts
from tracer.session.greeting import look
from tracer.session.notices import NoticeTeller
from tracer.targets.containers import HeldContainers
from tracer.targets.finder import BOOK, Finder, TargetBook
from tracer.targets.membership import Targeting, same_program
from tracer.targets.phases import Phases
from tracer.targets.processes import Registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tracer.bpf.maps.tables import Maps
    from tracer.config import Config
    from tracer.errors import TattleError
    from tracer.model.destination import Explainer
    from tracer.model.process import ProcessInfo
    from tracer.model.records import Json
    from tracer.model.rows import EventTuple, SampleTuple
    from tracer.names.refusals import Refused
    from tracer.policy.enforcement import State
    from tracer.policy.rules import Policy
    from tracer.runtimes.profiles import Runtime
    from tracer.session.greeting import Found
    from tracer.targets.finder import Target

log = structlog.get_logger("tattle")

LOSSES_EVERY_S: Final = 1.0
SETTLED_S: Final = 1.0  # between a request and what is cut for its end: the next may need the same connection
BATCH: Final = 512  # events that are text at the same time: a full ring would be 25 MB of it


class Line(NamedTuple):
    """An event as a line of JSON, with its newline, and whose it is."""

    who: ProcessInfo | None
    text: bytes


def engine_options(instance: str, settings: Config, **more: Any) -> EngineOptions:  # noqa: ANN401 - as EngineOptions
    """Give what the engine needs to know: the same to the daemon and to who blocks without one."""
    limits = settings.limits
    return EngineOptions(
        instance=instance,
        flows_max=limits.flows,
        processes_max=limits.processes,
        cgroups_max=limits.cgroups,
        ring_bytes=limits.ring_bytes,
        loopback=settings.observe.loopback,
        statistics=settings.program_stats,
        **{"engine": settings.engine, **more},
    )


def own_options(instance: str, engine: str | None, **more: Any) -> EngineOptions:  # noqa: ANN401 - as EngineOptions
    """Give what an engine beside the daemon's needs: nothing pinned, made as the configuration says."""
    made_by = engine or config.load(None).engine
    return EngineOptions(instance=instance, pin=False, engine=made_by, **more)


def readers(
    engine: Engine, book: TargetBook, finder: Finder, purposes: Explainer
) -> tuple[Accounts, Targeting]:
    """Put together what reads an engine's maps; `purposes` explain the destinations of targets."""
    decoder = Decoder(engine.abi.enums, purposes)
    tables = MemberMaps(engine.maps, engine.abi)
    registry = Registry(engine.maps, engine.abi.enums, book.name, finder.engines, tables.members)
    accounts = Accounts(engine.maps, registry, decoder, BootClock())
    accounts.held = lambda: (tables.held(), tables.held_times())
    return accounts, Targeting(engine, finder, book)


class Core:
    """An attached engine and its readers; `close` takes it out of the kernel."""

    def __init__(
        self,
        options: EngineOptions,
        state: Path | None,
        configured: Iterable[Policy] = (),
        early: Iterable[str] = (),
        undecided: str = "hold",
    ) -> None:
        """Load and attach, policies in force first.

        `state` is where targets' numbers and policies are kept (None: nowhere). Raises what went wrong with
        the first policy where none can be put in force; others that fail are logged. `early` are targets
        that have to exist, told to the kernel before sockets that are open already are taken in.
        """
        self.book = TargetBook(state / BOOK if state else None)
        self.faults = Faults()
        self.containers = ContainerEngines(faults=self.faults)
        self._finder = Finder(cgroup2_root(), engines=self.containers)
        self.enforcement: Enforcement | None = None
        self._policies: dict[str, Policy] = {}
        self._phased: set[str] = set()  # those whose rules are bound to phases
        self._over_at = math.inf
        self._runtimes: dict[str, Runtime] = {}
        self._told: dict[str, Runtime] = {}
        self._configured = tuple(configured)
        self._early = tuple(early)
        self._undecided = undecided
        self.held: HeldContainers | None = None
        self._states: list[TargetState] = []
        self._instance = options.instance
        self.engine = Engine.open(options, self._restore if state else self._name_early)
        self._purposes = Purposes()
        self.accounts, self.targeting = readers(self.engine, self.book, self._finder, self._purposes)
        self.phases = Phases(self.engine)
        self.ring = self.engine.ring()
        accounts = self.accounts
        self.namer = Namer(
            self.engine.samples(), accounts.registry, accounts.decoder, accounts.clock, accounts.count_lost
        )
        self.namer.on_refusal = self._tell_refusal
        self.namer.on_name = self._tell_name
        self.namer.on_request_end = self._request_ended
        accounts.errors = self.faults.counts
        accounts.named, accounts.nameless = self.namer.flow, self.namer.unread
        self._losses = LossTeller(self.engine.maps)

    def _restore(self, engine: Engine) -> None:
        self.enforcement = Enforcement(engine, self._finder, self.book, self.faults, self._undecided)
        failures = self.restore(self._configured)
        if failures and not engine.maps.enforcing():
            raise failures[0]

    def _name_early(self, engine: Engine) -> None:
        targeting = Targeting(engine, self._finder, self.book)
        targeting.apply(targeting.find(self._early, absent_ok=False))

    def restore(self, configured: Iterable[Policy]) -> list[TattleError]:
        """Put the policies that are kept, and those of the configuration, in force; log what fails."""
        failures = self.enforcement.restore(configured) if self.enforcement else []
        for error in failures:
            log.error("not enforced", error=error.message, hint=error.hint)
        return failures

    def cut(self) -> None:
        """Cut open connections that the policies deny; needs the privileges of the start."""
        if self.enforcement is not None:
            self.book.reload()
            for one in self.enforcement.saved().values():
                if count := self.enforcement.cut(one.policy):
                    log.info("open connections cut", target=one.policy.target, connections=count)

    def look_for_resolvers(self) -> None:
        """Find out whom new containers of targets ask for names; needs the privileges of the start."""
        if self.enforcement is not None:
            self.enforcement.look_for_resolvers()

    def mark(self) -> None:
        """Mark the processes of targets that run already; needs the privileges of the start."""
        if self.enforcement is not None:
            with self.enforcement.locked():
                self.book.reload()
                self.enforcement.members.sweep()

    @property
    def asks_names(self) -> bool:
        """Whether a policy allows names."""
        return any(compile_policy(one).names for one in self._policies.values())

    def _request_ended(self, who: ProcessInfo) -> None:
        """Note that a request is over for which something may have been open."""
        if self._phased.intersection(who.targets):
            self._over_at = time.monotonic() + SETTLED_S

    def is_over(self) -> bool:
        """Whether connections are to be cut that were open for requests only, and these are over; once."""
        if time.monotonic() < self._over_at:
            return False
        self._over_at = math.inf
        return True

    def streams_denied(self) -> int:
        """Return how many connections the kernel half has denied after they had begun."""
        return self.engine.maps.streams_denied()

    def retarget(self, texts: Iterable[str]) -> None:
        """Make the kernel's tables say that these are watched, beside those that have a policy.

        Raises UsageError or HostError for a target that cannot be found; then nothing has changed.
        """
        targets = self.targeting.find(texts, absent_ok=True)
        if self.enforcement is None:
            self.targeting.apply(targets)
            self.targeting.renew()
            self._know_runtimes()
            self._tell_phases()
            return
        with self.enforcement.locked():
            self.book.reload()
            saved = self.enforcement.saved()
            policies = self.enforcement.targets()
            self._policies = {name: one.policy for name, one in saved.items()}
            self._phased = {name for name, one in self._policies.items() if compile_policy(one).is_phased}
            self._told = {name: found for name, one in saved.items() if (found := self.enforcement.told(one))}
            self.targeting.apply(targets, policies)
            self.enforcement.follow_containers(saved)
            self.enforcement.renew()
            self._know_runtimes()
            self._tell_phases()

    def follow_containers(self) -> HeldContainers | None:
        """Follow container engines from now on; returns what is to be asked when they have told something."""
        if self.enforcement is not None:
            one = self.enforcement
            teller = NoticeTeller(self.engine.abi.enums, self.accounts.registry)
            self.held = HeldContainers(self.engine, one.members, one.containers, teller.tell)
            self.held.start(self.containers)
        return self.held

    def take_containers(self) -> None:
        """Take in what container engines have told."""
        if self.held is not None and self.enforcement is not None:
            with self.enforcement.locked():
                self.held.take()

    def recognize(self) -> None:
        """Find out which runtime each target is, where that is not known yet.

        Its profile tells its phases and explains whom it contacts.
        """
        if self._know_runtimes():
            with self.enforcement.locked() if self.enforcement else nullcontext():
                self._tell_phases()

    def _know_runtimes(self) -> bool:
        """Recognize targets; True where something has changed."""
        before = self._runtimes
        targets = {one.selector: one for one in self.targeting.targets}
        self._runtimes = {
            name: found
            for name, target in targets.items()
            if (found := before.get(name) or self._told.get(name) or self._finder.runtime(target))
        }
        if self._runtimes == before:
            return False
        self._purposes.know(self._runtimes)
        return True

    def _tell_phases(self) -> None:
        numbers = {one.selector: one.id for one in self.targeting.targets}
        self.phases.apply({numbers[name]: one for name, one in self._runtimes.items()})

    def found(self) -> list[Found]:
        """Return the runtimes that run on this host, whether they are targets or not."""
        return look(self._finder, self.accounts)

    def states(self) -> list[TargetState]:
        """Tell how each target stands, asked of the kernel; what cannot be asked is not called enforced."""
        try:
            self._states = self._states_now()
        except SURVIVED as error:
            self.faults.note("status", "how targets stand", error)
            return [one._replace(enforced=False) for one in self._states]
        self.faults.well("status", "how targets stand")
        return self._states

    def _states_now(self) -> list[TargetState]:
        known = self.enforcement.states() if self.enforcement else []
        policies = {state.saved.policy.target: state for state in known}
        return [self._state(one, policies.get(one.selector)) for one in self.targeting.targets]

    def terms(self) -> dict[str, Terms]:
        """Tell of each target what its policy says, and which runtime it is."""
        return {one.selector: self._terms(one.selector) for one in self.targeting.targets}

    def _terms(self, name: str) -> Terms:
        policy, runtime = self._policies.get(name), self._runtimes.get(name)
        return Terms(
            policy.default if policy else None,
            policy.rule_texts() if policy else (),
            policy.keep if policy else (),
            runtime.name if runtime else None,
            tuple(purpose.name for purpose in runtime.purposes) if runtime else (),
        )

    def refused(self) -> list[Json]:
        """Give the names that policies have refused, each with the command that would allow it."""
        return [
            {"target": one.target, "name": one.name, "port": one.port, "command": command, "when": None}
            for one in self.namer.refusals.items()
            if (command := self._allowing(one)) is not None
        ]

    def refused_for_now(self) -> list[Json]:
        """Give the names that policies have refused but allow in some phase, each with the words for when."""
        return [
            {"target": one.target, "name": one.name, "port": one.port, "command": None, "when": when}
            for one in self.namer.refusals.items()
            if (when := self._opens(one)) is not None
        ]

    def refused_addresses(self) -> list[Json]:
        """Give the ends that policies deny, newest first, each with the command that allows its address.

        Those without a name; and those that the answer for an allowed name has opened and its end closed
        again: `answer` has that name, and how old the answer was at the last denial.
        """
        accounts = self.accounts
        found: dict[tuple[str, str], Json] = {}
        with accounts.lock:
            rows = [row for row in accounts.rows() if denials(row)] if self._policies else []
        for row in sorted(rows, key=lambda one: one.last_ns, reverse=True):
            who = accounts.registry.get(row.process)
            policy = self._policies.get(who.target or "") if who else None
            if policy is None or len(found) >= NAMES_MAX:
                continue
            old = outlived(policy, row, self.namer.last(row, who).names)
            if old is None and accounts.named(row, who).equals:
                continue
            said = allowing_address(policy, row, self._instance)
            if said is not None:
                rule, command = said
                one = {"target": policy.target, "name": rule, "port": row.remote_port, "command": command}
                if old is not None:
                    one["answer"] = {"name": old.name, "age_seconds": (old.age_ns or 0) // 1_000_000_000}
                found.setdefault((policy.target, rule), one | {"when": None})
        return list(found.values())

    def _allowing(self, one: Refused) -> str | None:
        policy = self._policies.get(one.target)
        return allowing(policy, one, self._instance) if policy else None

    def _opens(self, one: Refused) -> str | None:
        policy = self._policies.get(one.target)
        return opens(policy, one) if policy else None

    def _tell_refusal(self, one: Refused) -> None:
        command, when = self._allowing(one), self._opens(one)
        if command is not None:
            log.warning("name refused", target=one.target, name=one.name, hint=f"to allow it: {command}")
        elif when is not None:
            log.info("name refused", target=one.target, name=one.name, hint=f"it is allowed {when}")

    def _tell_name(self, head: SampleTuple, name: str) -> None:
        """Tell the kernel in which phases the target contacts what it has just called by name."""
        who = self.accounts.registry.get(head.process)
        if phases := self._purposes.phases(who.target if who else None, name):
            self.phases.name(head.socket, phases)

    def tidy(self) -> None:
        """Make room in the kernel's tables, and follow what has changed on the host."""
        self.accounts.tidy()
        self.recognize()
        self.targeting.settle()
        if self.enforcement is not None:
            self.enforcement.tidy()

    def know_addresses(self) -> None:
        """Tell the kernel which addresses are this host's now."""
        if self.enforcement is not None:
            self.enforcement.know_addresses()

    def unenforced(self) -> list[str]:
        """Tell of each policy that is not in force for all of its target, and was not lifted either."""
        known = self.enforcement.states() if self.enforcement else []
        names = [escape(one.saved.policy.target) for one in known if not one.active and not one.until]
        return [f"the policy of {name} is not in force" for name in names]

    def _state(self, target: Target, policy: State | None) -> TargetState:
        mode = policy.saved.policy.mode if policy else OBSERVE
        enforced = policy is not None and policy.enforced
        processes = self.targeting.processes(target)
        now = self.phases.now(target.id)
        since = self.accounts.clock.boot_ns + self.targeting.since_ns(target)
        known = timestamp(max(since, self.accounts.since_ns))
        members = self.targeting.members(target)
        until = policy.until if policy else 0
        doing = now.phase, now.requests
        return TargetState(target.selector, mode, enforced, processes, *doing, members, known, until)

    def covered_since(self, texts: Iterable[str]) -> str | None:
        """Return since when all that matches these targets is counted; None: one of them is no target."""
        known = {state.target: state.since for state in self.states()}
        found = [known.get(text) for text in texts]
        return max((since for since in found if since), default=None) if all(found) else None

    def before(self, texts: Iterable[str]) -> Json | None:
        """Sum up what the same programs started towards others while they were in no target."""
        wants = same_program(texts)
        if wants is None:
            return None
        head, newest = self.accounts.view(wants, 1)
        away = [sums for scope, sums in head["totals"].items() if scope not in (Scope.LOOPBACK, Scope.HOST)]
        last = next((flow["last_seen"] for flow in newest), None)
        sums = {key: sum(one[key] for one in away) for key in ("attempts", "bytes_out")}
        return {**sums, "last_seen": last} if any(sums.values()) else None

    def events(self, *, wanted: bool) -> Iterator[list[Line]]:
        """Take all events from the rings, in batches; `wanted` False throws them away unread.

        Samples are read after the events: what a connection was called before its event is then known.
        """
        rows = self.ring.drain()
        if told := self.namer.drain(wanted=wanted):
            yield [Line(one.who, encode(one.event) + b"\n") for one in told]
        for start in range(0, len(rows) if wanted else 0, BATCH):
            yield [self._line(row) for row in rows[start : start + BATCH]]

    def _line(self, row: EventTuple) -> Line:
        who = self.accounts.registry.get(row.process)
        named = self.namer.event(row, who)
        boot_ns = self.accounts.clock.boot_ns
        event = self.accounts.decoder.event(row, who, boot_ns, self._rule(row, who), named)
        return Line(who, encode(event) + b"\n")

    def _rule(self, row: EventTuple, who: ProcessInfo | None) -> str | None:
        """Name the rule that denied, or would have."""
        if not row.verdict or who is None or who.target is None:
            return None
        policy = self._policies.get(self.book.name(row.target) or who.target)
        return policy.rule_text(row.rule) if policy else None

    def losses(self) -> Iterator[bytes]:
        """Yield a `lost` line for each loss of the kernel half that moved since the last call."""
        return self._losses.lines()

    def close(self) -> None:
        """Detach, unpin, let go. May be called twice."""
        self.containers.close()
        if self.held is not None:
            self.held.close()
            self.held = None
        self.accounts.close()
        self.namer.close()
        self.ring.close()
        self.engine.close()


class LossTeller:
    """Notices loss counters that move, at most once in `LOSSES_EVERY_S`."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._told = maps.losses()
        self._next = 0.0

    def lines(self) -> Iterator[bytes]:
        """Yield a line for each counter that moved since it was told last."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOSSES_EVERY_S
        now = self._maps.losses()
        for reason, count in now.items():
            if count > self._told.get(reason, 0):
                yield notice(reason, count - self._told.get(reason, 0), time.time_ns())
        self._told = now
