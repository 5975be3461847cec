"""What a user may keep open when a runtime is blocked, as its profile tells: hosts bound to phases; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tracer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracer.runtimes.profiles import PurposeTable, Runtime


class Kept(NamedTuple):
    """A host that is open while the runtime is in one of `phases`, and at no other time.

    `name` is a host's name or `*.NAME`; `plain`: it is contacted without TLS.
    """

    name: str
    phases: tuple[str, ...]
    plain: bool


def kept(runtime: Runtime, purposes: Iterable[str]) -> tuple[Kept, ...]:
    """Return the hosts of these purposes, each once with the phases of all of them.

    Raises UsageError that names a purpose which the runtime does not have, and those that it has.
    """
    phases: dict[str, dict[str, None]] = {}
    plain: set[str] = set()
    for purpose in (purpose_of(runtime, name) for name in purposes):
        for host in runtime.hosts:
            if purpose.name in host.keep:
                phases.setdefault(host.name, {}).update(dict.fromkeys(purpose.phases))
                plain |= {host.name} if host.plain else set()
    return tuple(Kept(name, tuple(bound), name in plain) for name, bound in phases.items())


def purpose_of(runtime: Runtime, name: str) -> PurposeTable:
    """Return one purpose of a runtime; raises UsageError that lists those that it has."""
    for purpose in runtime.purposes:
        if purpose.name == name:
            return purpose
    known = ", ".join(one.name for one in runtime.purposes)
    hint = f"choose of: {known}" if known else f"{runtime.file} has no [[purposes]]"
    raise UsageError(f"{runtime.title} has no purpose '{name}'", hint)
