"""The policies of an instance as they are kept over restarts, in /var/lib/NAME/policies.json."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from tracer.errors import HostError
from tracer.host.files import rename_whole, write_whole
from tracer.policy.rules import Mode, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Source(StrEnum):
    """Who asked for a policy: `tattle block`, the configuration file, or a command that is run under it."""

    COMMAND = "command"
    CONFIG = "config"
    RUN = "run"  # `tattle block -- COMMAND`: for as long as its cgroup is there


@dataclass(frozen=True)
class Saved:
    """A policy, who asked for it, and the cgroups that its target was found in."""

    policy: Policy
    source: Source
    cgroups: tuple[str, ...]
    runtime: str | None = None
    """The profile of what the target runs, where that was told; None: to be recognized."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the file."""

    target: str
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    default_allow: bool
    mode: Mode
    strict: bool
    source: Source
    cgroups: tuple[str, ...]
    keep: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    runtime: str | None = None

    def saved(self) -> Saved:
        policy = Policy(
            self.target,
            self.allow,
            self.deny,
            self.default_allow,
            self.mode,
            self.strict,
            self.keep,
            self.kept,
        )
        return Saved(policy, self.source, self.cgroups, self.runtime)


class PolicyFile:
    """The file: read as a whole, written as a whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Saved]:
        """Read the policies by target; none where there is no file. HostError where it is damaged."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise HostError(
                f"{self.path} cannot be read: {error.strerror}: the saved policies are unknown",
                f"make it readable: ls -l {self.path}",
            ) from None
        try:
            records = msgspec.convert(json.loads(raw), list[_Record])
        except (ValueError, RecursionError, msgspec.ValidationError) as error:
            raise HostError(
                f"{self.path} is damaged ({error}): the saved policies are unknown",
                f"remove it and block again: rm {self.path}; tattle block TARGET",
            ) from None
        return {record.target: record.saved() for record in records}

    @contextlib.contextmanager
    def replaced(self, policies: Mapping[str, Saved]) -> Iterator[None]:
        """Write `policies`, which take the place of the old ones when the block ends without an error.

        What can fail (a full or read-only disk) fails before the block runs.
        """
        fresh = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            # json and not msgspec: a cgroup's path may be no UTF-8.
            write_whole(fresh, json.dumps(_records(policies), indent=1).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            yield
            rename_whole(fresh, self.path)
        finally:
            fresh.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> HostError:
        return HostError(
            f"cannot write {self.path}: {error.strerror}: the next start would not know of the change",
            f"make room in {self.path.parent}, or make it writable",
        )


def _records(policies: Mapping[str, Saved]) -> list[Any]:
    return [
        {
            "target": one.policy.target,
            "allow": one.policy.allow,
            "deny": one.policy.deny,
            "default_allow": one.policy.default_allow,
            "mode": one.policy.mode,
            "strict": one.policy.strict,
            "source": one.source,
            "cgroups": one.cgroups,
            "keep": one.policy.keep,
            "kept": one.policy.kept,
            "runtime": one.runtime,
        }
        for _, one in sorted(policies.items())
    ]
