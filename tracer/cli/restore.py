"""`tattle restore`: what was blocked is blocked again, before anything else of a boot may start."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import structlog

from tracer import config
from tracer.cli.block import in_kernel, tell_daemon
from tracer.cli.command import Command, add_engine
from tracer.errors import ConfigError, HostError
from tracer.host import capabilities, cgroups
from tracer.model.text import escape
from tracer.policy.enforcement import POLICIES
from tracer.policy.store import PolicyFile

if TYPE_CHECKING:
    from tracer.policy.enforcement import State

log = structlog.get_logger("tattle")


def restore(instance: str, made_by: str | None) -> int:
    """Put the policies in force that are kept, and those of the configuration; returns the exit code.

    Raises HostError where one of them is not in force afterwards.
    """
    settings = _settings()
    paths = cgroups.instance_paths(instance, cgroups.BPFFS)
    if not settings.policies() and not PolicyFile(paths.state / POLICIES).load():
        sys.stdout.write("nothing is blocked\n")
        return 0
    capabilities.require_loading()
    with in_kernel(instance, made_by, settings) as enforcement:
        enforcement.tell_phases()
        states = enforcement.states()
    tell_daemon(instance)
    sys.stdout.writelines(f"{escape(one.saved.policy.target)}: {_standing(one)}\n" for one in states)
    if lacking := [escape(one.saved.policy.target) for one in states if not one.active and not one.until]:
        raise HostError(f"not in force: {', '.join(lacking)}", "tattle status says more")
    return 0


def _settings() -> config.Config:
    """Return the configuration; a broken one takes nothing away from what is kept, and is told."""
    try:
        return config.load(None)
    except ConfigError as error:
        log.error("the configuration is left out", error=error.message, hint=error.hint)  # noqa: TRY400 - no traceback
        return config.Config()


def _standing(one: State) -> str:
    if one.until:
        return "lifted for a while"
    if not one.active:
        return "not in force"
    return "blocked again" if one.enforced else "audited again"


COMMAND: Final = Command(
    "restore",
    "put in force again what was blocked before a reboot, and end",
    "Put the policies in force that block has kept, and those of the configuration, without a daemon. "
    "tattle-restore.service does it at boot, before any service that is not part of the early boot starts; "
    "the daemon takes over later. A broken configuration is told, and what block has kept is in force all "
    "the same. Ends with 3 if anything is not in force then.",
    "  sudo tattle restore",
    add_engine,
    lambda arguments: restore(arguments.instance, arguments.engine),
)
