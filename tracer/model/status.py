"""How things stand: a map, a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class MapSize(NamedTuple):
    """How full a map is; `full` means that the next insertion would be refused."""

    map: str
    entries: int
    max_entries: int
    full: bool


OBSERVE: Final = "observe"


class Terms(NamedTuple):
    """What is known of a target beside its state: what its policy says, which runtime it is."""

    default: str | None = None
    """None: it has no policy."""
    rules: Sequence[str] = ()
    keep: Sequence[str] = ()
    """Purposes whose hosts stay open in their phases,"""
    runtime: str | None = None
    purposes: Sequence[str] = ()
    """and those that could be kept of its runtime."""


class TargetState(NamedTuple):
    """A target as it is now; `mode` is observe until a policy says otherwise.

    `requests` in flight on its API by phase; None where that is not known. `members` are its cgroups, and its
    processes outside of these; `since` it has been a target whatever matches is known and covered.
    `until`: its policy is lifted until then, in nanoseconds of CLOCK_BOOTTIME; 0: it is not.
    """

    target: str
    mode: str
    enforced: bool
    processes: int
    phase: str = "unknown"
    requests: Mapping[str, int] | None = None
    members: int = 0
    since: str | None = None
    until: int = 0
