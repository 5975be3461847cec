"""What may be asked of the switch, and what comes back: typed, and nothing beside it."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Union

import msgspec

from tracer.errors import UsageError

LIFT_S: Final = 3600
"""The longest time, in seconds, for which a block may be lifted from the page."""
_TEXT_MAX: Final = 4096
_PURPOSES_MAX: Final = 16

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=_TEXT_MAX)]


class _Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    """A request; unknown fields are refused."""


class Lock(_Ask, frozen=True, tag="lock"):
    """Audit or block a target, keeping the hosts of some purposes open; its own rules stay as they are."""

    target: Text
    mode: Literal["audit", "enforce"] = "enforce"
    keep: Annotated[tuple[Text, ...], msgspec.Meta(max_length=_PURPOSES_MAX)] = ()


class Unlock(_Ask, frozen=True, tag="unlock"):
    """Take a target's policy away; with `seconds` it comes back by itself."""

    target: Text
    seconds: Annotated[int, msgspec.Meta(ge=1, le=LIFT_S)] | None = None


class Rule(_Ask, frozen=True, tag="rule"):
    """Add a rule to a target's policy; a target without one gets one that allows all else."""

    target: Text
    rule: Text
    allow: bool


class Survey(_Ask, frozen=True, tag="survey"):
    """Look for the runtimes of this host. Changes nothing."""


Request = Union[Lock, Unlock, Rule, Survey]  # noqa: UP007 - msgspec reads it


class Done(msgspec.Struct, frozen=True):
    """What was done, in the words of the command line; `error` with its hint where it was not."""

    text: str = ""
    error: str | None = None
    hint: str = ""
    found: tuple[Runtime, ...] = ()


class Runtime(msgspec.Struct, frozen=True):
    """A runtime of this host as `tattle targets` finds it."""

    name: str
    title: str
    running: bool
    how: str
    purposes: tuple[Purpose, ...]


class Purpose(msgspec.Struct, frozen=True):
    """What may be kept of a runtime that is blocked."""

    name: str
    what: str


def read_request(body: bytes) -> Request:
    """Read a request; raises UsageError that says what is wrong with it."""
    try:
        return msgspec.json.decode(body, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"not understood: {error}", "load the page again") from None


def describe(asked: Request) -> str:
    """Return a request in a few words, for the audit trail."""
    match asked:
        case Lock():
            kept = "".join(f" --keep {one}" for one in asked.keep)
            return f"block {asked.target}{kept}{' --audit' if asked.mode == 'audit' else ''}"
        case Unlock():
            return f"unblock {asked.target}" + (f" --for {asked.seconds}s" if asked.seconds else "")
        case Rule():
            return f"block {asked.target} {'--allow' if asked.allow else '--deny'} {asked.rule}"
        case _:
            return "look for runtimes"
