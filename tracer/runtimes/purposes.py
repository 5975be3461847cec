"""Why a model runtime contacts whom, as far as its profile tells: pure.

A destination that a profile does not name is unexpected: that is said of what a profiled target starts
towards the internet, by name or without one, but not of port 53, where names are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.model.destination import NO_PHASE, NO_PROFILE, NOTHING, Contact, Purpose
from tracer.model.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracer.runtimes.profiles import Host, Runtime

_DNS_PORT: Final = 53
_CACHE_MAX: Final = 4096
_UNASKED: Final = frozenset({NO_PHASE, "startup", "idle"})


class Purposes:
    """Explains the destinations of targets; `know` says which runtime each target is."""

    def __init__(self) -> None:
        self._runtimes: Mapping[str, Runtime] = {}
        self._texts: dict[tuple[str, str, str], str | None] = {}

    def know(self, runtimes: Mapping[str, Runtime]) -> None:
        """Take these runtimes, by the targets' selectors, instead of those before."""
        self._runtimes, self._texts = dict(runtimes), {}

    def knows(self, target: str | None) -> bool:
        """Tell whether a target has a profile."""
        return target in self._runtimes

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that have a profile."""
        return tuple(self._runtimes)

    def of(self, target: str | None, contact: Contact) -> Purpose:
        """Explain a destination of a target."""
        if target is None or target not in self._runtimes:
            return NO_PROFILE
        if not contact.outward or contact.port == _DNS_PORT:
            return NOTHING
        text = self.text(target, contact.name, contact.phase)
        return Purpose(text, unexpected=text is None and contact.scope == Scope.INTERNET)

    def phases(self, target: str | None, name: str) -> frozenset[str]:
        """Say in which phases a target contacts a name; empty: its profile does not tell, or any."""
        runtime = self._runtimes.get(target) if target is not None else None
        known = hosts(runtime, name) if runtime else []
        return (
            frozenset(phase for one in known for phase in one.phases)
            if all(one.phases for one in known)
            else frozenset()
        )

    def text(self, target: str | None, name: str | None, phase: str = NO_PHASE) -> str | None:
        """Say why a target contacts a name; None where its profile does not tell."""
        if target is None or name is None or target not in self._runtimes:
            return None
        key = (target, name, phase)
        if key not in self._texts:
            if len(self._texts) >= _CACHE_MAX:
                self._texts.clear()
            self._texts[key] = explain(self._runtimes[target], name, phase)
        return self._texts[key]


def explain(runtime: Runtime, name: str, phase: str = NO_PHASE) -> str | None:
    """Say why a runtime contacts a name, in which phase it did, and what stops that; None: not known.

    What belongs to no phase may happen in any; while a request is in flight, it comes last. Where several
    purposes fit, all are told.
    """
    known = hosts(runtime, name)
    fitting = [one for one in known if phase == NO_PHASE or not one.phases or phase in one.phases]
    told: dict[str, list[str]] = {}
    for host in sorted(fitting or known, key=lambda one: phase not in _UNASKED and not one.phases):
        told.setdefault(off(runtime, host), []).append(f"{host.purpose}, {host.when}")
    return "; ".join(", or ".join(texts) + end for end, texts in told.items()) or None


def hosts(runtime: Runtime, name: str) -> list[Host]:
    """Give what a profile says of a name."""
    return [one for one in runtime.hosts if matches(one.name, name)]


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name is the pattern's, which may stand for all names below one (`*.example.com`)."""
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


def off(runtime: Runtime, host: Host) -> str:
    """Say what stops the contact, as the end of a sentence; empty where nothing is known to."""
    settings = [one.setting for one in runtime.switches if one.name in host.off]
    ways = " or ".join([*settings, *([host.off_by] if host.off_by else [])])
    words = "off with" if settings else "off by"
    return f"; {words} {ways}" if ways else ""
