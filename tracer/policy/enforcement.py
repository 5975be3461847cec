"""Blocking targets: who is in one, what its policy is, and what the kernel says of both.

The order leaves no gap: the cgroups come into the target, by path for those yet to be made, then its rules
into the tables, then the policy into force, all at once; then open connections are cut. Whatever fails on
the way leaves the old policy as it was.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from tracer.errors import HostError, TargetRefused, TattleError, UsageError
from tracer.host import cgroups, resolv_conf
from tracer.host.files import locked
from tracer.model.text import escape
from tracer.netlink.addresses import by_namespace
from tracer.policy.keep import expand
from tracer.policy.openings import Openings
from tracer.policy.own_addresses import OwnAddresses
from tracer.policy.reset import Judge, cut
from tracer.policy.rules import Mode, Policy, compile_policy
from tracer.policy.store import PolicyFile, Saved, Source
from tracer.policy.tables import PolicyTables
from tracer.runtimes.profiles import runtimes
from tracer.targets.containers import ContainerTargets, concerns_containers
from tracer.targets.finder import Target, parse
from tracer.targets.kernel import Membership
from tracer.targets.meaning import Meaning, meaning
from tracer.targets.phases import Phases

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tracer.bpf.engine import Engine
    from tracer.host.faults import Faults
    from tracer.host.resolv_conf import Resolvers
    from tracer.runtimes.profiles import Runtime
    from tracer.targets.finder import Finder, Selector, TargetBook

log = structlog.get_logger("tattle")

HOOKS: Final = ("connect4", "connect6", "sendmsg4", "sendmsg6", "ingress", "egress", "cgroup_mkdir")
"""Without one of these no promise can be made. Each has the name of its program."""
MAPS: Final = (
    *("policies", "rules", "names", "named", "openings", "hosted", "resolvers", "lookups", "pieces"),
    *("own_addresses",),
    *("settings", "cgroups", "target_paths", "sockets"),
    *("api_paths", "phased", "phases", "talks"),
)
"""What the programs judge by: pinned, as the hooks are, so that it stays when nobody holds it."""
POLICIES: Final = "policies.json"


class Blocked(NamedTuple):
    """What `block` did: the policy with all its rules, the target's cgroups and processes, what was cut."""

    policy: Policy
    runtime: Runtime | None  # where rules depend on it
    cgroups: tuple[str, ...]
    present: tuple[str, ...]
    processes: int
    held: bool  # containers that no engine tells of are held
    cut: int
    resolvers: tuple[bytes, ...]  # that may be asked for names, 16 bytes each


class State(NamedTuple):
    """A policy as the kernel has it now; `active` only if all of it is in force for all of the target."""

    saved: Saved
    cgroup_ids: tuple[int, ...]
    processes: tuple[int, ...]
    active: bool
    until: int = 0
    """Lifted until then, in nanoseconds of CLOCK_BOOTTIME; 0: not lifted."""

    @property
    def state(self) -> str:
        """Say how it stands, in the words of the contract: enforced, waiting, partial or lifted."""
        if self.until:
            return "lifted"
        if not self.active:
            return "partial" if self.cgroup_ids or self.processes else "waiting"
        return "enforced" if self.cgroup_ids or self.processes else "waiting"

    @property
    def enforced(self) -> bool:
        """Whether what it denies is stopped, and not only counted."""
        return self.active and self.saved.policy.mode is Mode.ENFORCE


class Enforcement:
    """The policies of one engine, and the file that keeps them."""

    def __init__(
        self,
        engine: Engine,
        finder: Finder,
        book: TargetBook,
        faults: Faults | None = None,
        undecided: str = "hold",
    ) -> None:
        """With `faults`, what was read of the file last stands in for one that cannot be read now.

        `undecided` says what containers may do that no engine tells of: "hold" or "pass".
        """
        self._faults = faults
        self._undecided = undecided
        self._known: dict[str, Saved] | None = None
        self._engine = engine
        self._maps = engine.maps
        self._finder = finder
        self._book = book
        self._tables = PolicyTables(engine.maps, engine.abi)
        self._own = OwnAddresses(engine.maps, engine.abi)
        self._openings = Openings(engine.maps, engine.abi)
        self._file = PolicyFile(engine.paths.state / POLICIES)
        self.members = Membership(engine, book)
        self.containers = ContainerTargets(self.members, finder.engines)

    def saved(self) -> dict[str, Saved]:
        """Read the policies that are kept, by target."""
        try:
            self._known = self._file.load()
        except HostError as error:
            if self._faults is None or self._known is None:
                raise
            self._faults.note("policies", str(self._file.path), error)
        else:
            if self._faults is not None:
                self._faults.well("policies", str(self._file.path))
        return dict(self._known)

    def locked(self) -> AbstractContextManager[None]:
        """Keep others from changing policies and targets meanwhile."""
        return locked(self._engine.paths.policy_lock)

    def targets(self) -> tuple[Target, ...]:
        """Give the targets that have a policy, with their cgroups."""
        return tuple(Target(name, self._book.number(name), one.cgroups) for name, one in self.saved().items())

    def block(self, policy: Policy, *, run: Runtime | None = None, is_run: bool = False) -> Blocked:
        """Put a policy in force and keep it. UsageError or HostError, and then nothing has changed.

        Open connections that it denies are cut. `is_run`: for a command that is about to be run, as `run`
        where that is a known runtime.
        """
        with self.locked():
            self._require_hooks()
            policies = {name: one for name, one in self.saved().items() if not self._has_ended(one)}
            before = policies.get(policy.target)
            source = Source.RUN if is_run else Source.COMMAND
            places = self._places(parse(policy.target), before)
            fresh = self._expanded(Saved(policy, source, places, run.name if run else None))
            with self._file.replaced({**policies, policy.target: fresh}):
                self._put(fresh, before)
                self._tell_containers({**policies, policy.target: fresh}, wait=True)
            self.know_addresses()
            present = tuple(path for path in fresh.cgroups if self._directory(path).is_dir())
            running = self.members.processes(self._book.number(policy.target))
        asked = tuple(self._resolvers(fresh).named) if compile_policy(fresh.policy).names else ()
        done = self.cut(fresh.policy)
        return Blocked(
            fresh.policy,
            self.told(fresh),
            fresh.cgroups,
            present,
            len(running),
            self.members.holds,
            done,
            asked,
        )

    def unblock(self, text: str, *, watched: bool) -> Saved:
        """Take a target's policy away; its cgroups stay in the target where it is `watched` anyway.

        UsageError where it has none.
        """
        with self.locked():
            policies = self.saved()
            name = find_policy(text, policies)
            gone = policies.pop(name)
            with self._file.replaced(policies):
                self._keep(policies)
                if not watched:
                    self.members.unname([self._book.number(name)])
                self.members.follow()
                self._tell_containers(policies, wait=True)
        return gone

    def lift(self, text: str, seconds: float) -> tuple[Saved, int]:
        """Lift a target's policy for some time; returns it, and until when (see State).

        It is kept, and comes back by itself, in the kernel. UsageError where the target has none.
        """
        until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)
        with self.locked():
            policies = self.saved()
            name = find_policy(text, policies)
            self._tables.lift(self._book.number(name), until)
        return policies[name], until

    def restore(self, configured: Iterable[Policy] | None) -> list[TattleError]:
        """Put the kept policies and those of the configuration (None: unread) in force; returns what failed.

        One that fails keeps its place in the file and, if it is in force from before, in the kernel.
        """
        failures: list[TattleError] = []
        with self.locked():
            old = self.saved()
            wanted = dict(old) if configured is None else _merged(old, configured)
            wanted = {name: one for name, one in wanted.items() if not self._has_ended(one)}
            for name, one in wanted.items():
                try:
                    wanted[name] = self._renewed(one, old.get(name))
                except TattleError as error:
                    wanted[name] = old.get(name, one)  # what may still be in force, not what was wished for
                    failures.append(error)
            try:
                with self._file.replaced(wanted):
                    self._keep(wanted)
            except HostError as error:
                self._keep(wanted)
                failures.append(error)
            self.members.unname(self._book.number(name) for name in old.keys() - wanted.keys())
            self._tell_containers(wanted, wait=False)
        self.know_addresses()
        return failures

    def follow_containers(self, policies: Mapping[str, Saved]) -> None:
        """Tell of containers anew, after targets have changed. With the policies locked."""
        self._tell_containers(policies, wait=False)

    def _tell_containers(self, policies: Mapping[str, Saved], *, wait: bool) -> None:
        """Hold the containers that no engine tells of, while a policy might concern them."""
        stopped = [name for name, one in policies.items() if one.policy.mode is Mode.ENFORCE]
        concerned = any(concerns_containers(parse(name)) for name in stopped)
        self.members.hold(on=concerned and self._undecided == "hold")
        self.containers.sync()
        if self.members.holds:
            self.containers.settle(wait=wait)
        else:
            self.members.release()

    def know_addresses(self) -> None:
        """Tell the kernel which addresses are the host's own, where those that have a policy are now."""
        pids = [str(pid) for name in self.saved() for pid in self.members.processes(self._book.number(name))]
        self._own.follow(by_namespace((os.getpid(), *pids)))

    def _keep(self, policies: Iterable[str]) -> None:
        """Take policies away that these targets do not have."""
        self._tables.remove(self._tables.in_force().keys() - {self._book.number(name) for name in policies})

    def renew(self) -> None:
        """Have every socket judged anew, after cgroups have changed their target."""
        self._engine.maps.renew_verdicts()

    def tell_phases(self) -> None:
        """Have it told what those that have a policy are doing, where their API is known."""
        with self.locked():
            saved = self.saved().items()
            known = {self._book.number(name): found for name, one in saved if (found := self.runtime(one))}
            Phases(self._engine).apply(known, all_of_them=False)

    def cut(self, policy: Policy) -> int:
        """Cut the open connections that a policy denies; returns how many."""
        if policy.mode is not Mode.ENFORCE:
            return 0
        owner = self._book.number(policy.target)
        held = self._tables.in_force().get(owner)
        if held is not None and held.is_lifted:
            return 0
        members = self.members.tables.members
        table = compile_policy(policy)
        phases = Phases(self._engine).bits(owner) if table.is_phased else 0
        judge = Judge(owner, table, self._tables, self._openings, phases)
        return cut(self._engine, lambda number: owner in members(number), judge.denies)

    def tidy(self) -> None:
        """Forget addresses whose time is over, and follow a host whose resolvers have changed."""
        self._openings.tidy()
        self.know_addresses()
        seen = resolv_conf.look()
        seen = seen._replace(certain=seen.certain & ~resolv_conf.OWN)  # those of targets are not read here
        in_force = self._tables.in_force()
        for name, one in self.saved().items():
            held = in_force.get(self._book.number(name))
            if held is not None:
                self._tables.local.follow(held.number, compile_policy(one.policy).names, seen)

    def look_for_resolvers(self) -> None:
        """Have containers that are in targets now ask whom their own files named when they began.

        Needs the privileges of the start: the files are seen by the containers' processes alone.
        """
        with self.locked():
            self._book.reload()
            in_force = self._tables.in_force()
            for name, one in self.saved().items():
                held, names = in_force.get(self._book.number(name)), compile_policy(one.policy).names
                if names and held is not None:
                    places, whole = self.members.containers(self._book.number(name))
                    seen = resolv_conf.look(containers=map(self._directory, places))
                    certain = seen.certain if whole else seen.certain & ~resolv_conf.OWN
                    self._tables.local.follow(held.number, names, seen._replace(certain=certain))

    def _resolvers(self, one: Saved) -> Resolvers:
        places, _ = self.members.containers(self._book.number(one.policy.target))
        return resolv_conf.look(map(self._directory, dict.fromkeys((*one.cgroups, *places))))

    def states(self) -> list[State]:
        """Ask the kernel how each policy stands now."""
        hooked = self.hooked()
        return [self._state(one, hooked=hooked) for one in self.saved().values()]

    def hooked(self) -> bool:
        """Say whether every hook is attached, by our own programs, and pinned with all that it needs."""
        return self.lack() is None

    def lack(self) -> str | None:
        """Name a hook that is not attached or a pin that is gone; None where all is there."""
        if gone := self._unhooked():
            return f"hook {gone[0]} is not attached"
        if unpinned := sorted({*HOOKS, *MAPS} - self._engine.pinned()):
            return f"the pin of {unpinned[0]} is gone"
        return None

    def _unhooked(self) -> list[str]:
        """Name the hooks that are not attached, or whose program somebody has exchanged."""
        return [
            hook.hook
            for hook in self._engine.hooks()
            if hook.hook in HOOKS and not (hook.attached and hook.program == hook.hook)
        ]

    def _require_hooks(self) -> None:
        if gone := self._unhooked():
            raise HostError(
                f"nothing can be blocked: hook {gone[0]} is not attached",
                "restart tattle; tattle doctor says what this kernel refuses",
            )
        if not self.hooked():
            raise HostError(
                "nothing was blocked: tattle has just ended, or its pins are gone", "try it again"
            )
        if used := cgroups.version1_in_use():
            raise HostError(
                f"nothing can be blocked: cgroup v1 {', '.join(used)} takes sockets out of their v2 cgroup",
                cgroups.VERSION1_HINT,
            )

    def _places(self, selector: Selector, before: Saved | None = None) -> tuple[str, ...]:
        """Give the cgroups of a target, where it is now and where it will appear.

        One that cannot be found, a container for instance, stays where it was before.
        """
        awaited = self._finder.expected(selector)
        try:
            found = self._finder.own(selector)
        except TargetRefused:
            raise
        except HostError:
            found = before.cgroups if before and not awaited else ()
            if not found and not self._finder.is_awaited(selector):
                raise
        return tuple(dict.fromkeys((*found, *awaited)))

    def _renewed(self, one: Saved, before: Saved | None) -> Saved:
        self._require_hooks_to_come()
        places = self._places(parse(one.policy.target), before)
        fresh = self._expanded(Saved(one.policy, one.source, places, one.runtime))
        held = self._tables.in_force().get(self._book.number(one.policy.target))
        self._put(fresh, before, until=held.until if held else 0)
        return fresh

    def _expanded(self, one: Saved) -> Saved:
        """Return a policy with the rules that its purposes mean, for the runtime that its target is now."""
        if not (one.policy.keep or compile_policy(one.policy).is_phased):
            return one
        runtime = self.runtime(one)
        if runtime is None and one.policy.kept:
            return one
        policy = expand(one.policy, runtime)
        return Saved(policy, one.source, one.cgroups, runtime.name if runtime else None)

    def runtime(self, one: Saved) -> Runtime | None:
        """Return the runtime that the target of a policy is, as told or as recognized."""
        return self.told(one) or self._finder.runtime(Target(one.policy.target, 0, one.cgroups))

    @staticmethod
    def told(one: Saved) -> Runtime | None:
        """Return the runtime that the target of a policy was said to be, if it was."""
        return runtimes().get(one.runtime) if one.runtime is not None else None

    def _has_ended(self, one: Saved) -> bool:
        """Whether a policy was for a command that has been run and is over."""
        return one.source is Source.RUN and not any(self._directory(path).is_dir() for path in one.cgroups)

    def _require_hooks_to_come(self) -> None:
        """Before anything is attached: look at what could be loaded."""
        lacking = [hook for hook in HOOKS if hook in self._engine.refused]
        if lacking:
            raise HostError(
                f"nothing can be blocked: this kernel refuses hook {lacking[0]}", "tattle doctor says more"
            )

    def _put(self, fresh: Saved, before: Saved | None, *, until: int = 0) -> None:
        """Name the target, then put its policy in force; where that fails it is named as before."""
        number = self._book.number(fresh.policy.target)
        table = compile_policy(fresh.policy)
        was_named = number in self.members.tables.named()
        self.members.name({number: self._meaning(fresh)})
        try:
            seen = self._resolvers(fresh)
            older = compile_policy(before.policy) if before else None
            self._tables.put(number, table, seen, older, until=until)
        except TattleError:
            if not was_named:
                self.members.unname([number])
            raise
        self.members.follow()

    def _is_caught(self, one: Saved) -> bool:
        """Whether a container that may be meant sends nothing before that is decided."""
        is_stopped = one.policy.mode is Mode.ENFORCE
        return self.members.holds or not (is_stopped and concerns_containers(parse(one.policy.target)))

    def _meaning(self, one: Saved) -> Meaning:
        return meaning(parse(one.policy.target), one.cgroups)

    def _directory(self, path: str) -> Path:
        return self._engine.root / path.lstrip("/")

    def _state(self, one: Saved, *, hooked: bool) -> State:
        number = self._book.number(one.policy.target)
        what = self._meaning(one)
        in_force = self._tables.in_force().get(number)
        cgroups = self.members.covered(number, what)
        whole = (
            hooked
            and in_force is not None
            and in_force[1:4] == (one.policy.mode, one.policy.default_allow, one.policy.strict)
            and cgroups is not None
            and self.members.is_told(number, what)
            and not self._engine.maps.losses()["marks_full"]
            and self._is_caught(one)
        )
        processes = self.members.processes(number)
        until = in_force.until if in_force is not None and in_force.is_lifted else 0
        here = tuple(sorted(cgroups or ())), tuple(sorted(processes))
        return State(one, *here, whole and not until, until)


def find_policy(text: str, policies: dict[str, Saved]) -> str:
    """Find the policy of a target by its selector, however it is spelled."""
    if text in policies:
        return text
    wanted = parse(text)
    for name in policies:
        other = parse(name)
        if (other.kind, other.value) == (wanted.kind, wanted.value):
            return name
    blocked = ", ".join(map(escape, policies)) or "nothing is"
    raise UsageError(f"'{escape(text)}' is not blocked", f"blocked: {blocked}")


def _merged(old: dict[str, Saved], configured: Iterable[Policy]) -> dict[str, Saved]:
    """Lay the configuration over what is kept: it decides for its targets, also for those it has dropped."""
    found = {name: one for name, one in old.items() if one.source is not Source.CONFIG}
    for policy in configured:
        before = old.get(policy.target)
        found[policy.target] = Saved(
            policy, Source.CONFIG, *((before.cgroups, before.runtime) if before else ((),))
        )
    return found
