"""The model runtimes that are known by name: one file each in tracer/profiles/, checked as a whole.

A file in /etc/tattle/profiles/ adds a runtime, or replaces the one of the same name; how to write one tells
tracer/profiles/README.md.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from tracer.errors import ConfigError
from tracer.model.text import escape

SHIPPED: Final = Path(__file__).parents[1] / "profiles"
OWN: Final = Path("/etc/tattle/profiles")
_GUIDE: Final = "see tracer/profiles/README.md"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}\Z")
_METHOD: Final = re.compile(r"[A-Z]{3,7}\Z")  # as long as the kernel half reads: DELETE, OPTIONS
_PATH: Final = re.compile(r"/[!-)+-~]*\*?\Z")  # RFC 3986 3.3, and `*` at the end for what starts so
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)+{_LABEL}\Z")  # RFC 1035 2.3.1, a wildcard before it
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")  # environ(7)

# What a request or a destination can belong to; `startup` and `unknown` are no request's
RequestPhase = Literal["inference", "pull", "account", "idle"]
Phase = Literal["startup", "inference", "pull", "account", "idle"]
# How a runtime reads a switch's value: tracer/runtimes/spelling.py
Spelling = Literal["any", "exact", "go, else true", "python", "huggingface", "llama.cpp"]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a profile: no key may be unknown."""


class Find(_Table, frozen=True):
    """[find]: by what the runtime's processes are told from others.

    `session` are globs over the last part of a cgroup's path, for programs of a user's session. `clients` are
    first arguments (options aside) with which the program only asks one that runs; "" is to have none.
    """

    units: tuple[str, ...] = ()
    exes: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()


class Api(_Table, frozen=True):
    """[api]: where its HTTP interface listens, and what moves it from there.

    `schemes` are the ports of an address that begins with that scheme and names none.
    """

    ports: tuple[Port, ...]
    environment: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    schemes: dict[str, Port] = {}


class PhaseTable(_Table, frozen=True):
    """[[phases]]: requests that put the runtime in a phase; `path` may end in `*`."""

    method: str
    path: str
    phase: RequestPhase


class PurposeTable(_Table, frozen=True):
    """[[purposes]]: what a user may keep when the rest is blocked: `tattle block NAME --keep PURPOSE`.

    The hosts that have it in `keep` are open only while a request of one of `phases` is in flight, or the
    runtime is in its `startup` or `idle`.
    """

    name: str
    what: str
    phases: tuple[Phase, ...]


class Host(_Table, frozen=True):
    """[[hosts]]: a destination that it is known to contact.

    `off` names switches, `off_by` says in words what no switch does. Without `phases` it may be contacted
    at any time. `keep` names purposes; `requests` are the rules of [[phases]] that carry it, as "POST /path",
    where not all of a phase do; `plain` says that it is contacted without TLS.
    """

    name: str
    purpose: str
    when: str
    since: str = ""
    off: tuple[str, ...] = ()
    off_by: str = ""
    phases: tuple[Phase, ...] = ()
    keep: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    plain: bool = False


class Anywhere(_Table, frozen=True):
    """[[anywhere]]: what may go to a host that nobody can name before, as a prompt says or a user sets."""

    purpose: str
    when: str
    off_by: str = ""
    phases: tuple[Phase, ...] = ()


class SwitchFile(_Table, frozen=True):
    """A JSON file where a switch stands; `~` is the process's $HOME, as runtimes understand it."""

    path: str
    key: str


class SwitchApi(_Table, frozen=True):
    """An answer of the runtime's own interface; `key` goes down by dots."""

    path: str
    key: str


class Switch(_Table, frozen=True):
    """[[switches]]: what a user sets to be left alone, and all places where it can stand.

    `private` is the value that stops `stops`, `spelling` how the runtime reads values. `fallback` are other
    variables, looked at where the ones before are not set or empty; `also` are others that do the same. One
    place is enough, but with `prefer`, where that kind of place decides alone if it is there.
    """

    name: str
    private: str
    stops: str
    environment: str = ""
    fallback: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    argument: str = ""
    file: SwitchFile | None = None
    api: SwitchApi | None = None
    spelling: Spelling = "any"
    prefer: Literal["", "argument"] = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """Return the variables in which it may stand, the strongest first."""
        return tuple(filter(None, (self.environment, *self.fallback, *self.also)))

    @property
    def setting(self) -> str:
        """Say it as a user sets it."""
        return self.name if self.name.startswith("-") else f"{self.name}={self.private}"


class _Profile(_Table, frozen=True):
    name: str
    title: str
    checked: str
    find: Find
    api: Api | None = None
    phases: tuple[PhaseTable, ...] = ()
    purposes: tuple[PurposeTable, ...] = ()
    hosts: tuple[Host, ...] = ()
    anywhere: tuple[Anywhere, ...] = ()
    switches: tuple[Switch, ...] = ()


class PhaseRule(NamedTuple):
    """Requests whose method is `method` and whose target up to `?` is `path`, or starts so (`prefix`)."""

    method: str
    path: str
    prefix: bool
    phase: str


class Runtime(NamedTuple):
    """One runtime; `checked` says by what its facts are known, `file` where they stand."""

    name: str
    title: str
    checked: str
    find: Find
    api: Api | None
    phases: tuple[PhaseRule, ...]
    purposes: tuple[PurposeTable, ...]
    hosts: tuple[Host, ...]
    anywhere: tuple[Anywhere, ...]
    switches: tuple[Switch, ...]
    file: Path


@cache
def runtimes() -> dict[str, Runtime]:
    """Give all runtimes by name: those that come with tattle and this host's own.

    Raises ConfigError that names the file and the key.
    """
    return read((SHIPPED, OWN))


def read(directories: tuple[Path, ...]) -> dict[str, Runtime]:
    """Read directories of profiles; what stands in a later one replaces what is called the same."""
    found: dict[str, Runtime] = {}
    for directory in directories:
        here: dict[str, Runtime] = {}
        for path in sorted(directory.glob("*.toml")):
            one = load(path)
            if one.name in here:
                raise ConfigError(f"{path}: name: '{one.name}' is {here[one.name].file}, too", "rename one")
            here[one.name] = one
        found |= here
    return found


def load(path: Path) -> Runtime:
    """Read one profile; raises ConfigError that names the file and the key."""
    try:
        profile = msgspec.toml.decode(path.read_bytes(), type=_Profile)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "make it readable for root") from None
    except msgspec.ValidationError as error:
        raise _refused(path, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}", "mend that place; see https://toml.io") from None
    for key, wrong, expected in _faults(profile):
        raise ConfigError(f"{path}: {key}: '{escape(wrong)}' is not {expected}", _GUIDE)
    rules = tuple(_rule(one) for one in profile.phases)
    known = (profile.name, profile.title, profile.checked, profile.find, profile.api)
    reached = (profile.purposes, profile.hosts, profile.anywhere)
    return Runtime(*known, rules, *reached, profile.switches, path)


def _rule(table: PhaseTable) -> PhaseRule:
    prefix = table.path.endswith("*")
    return PhaseRule(table.method, table.path.removesuffix("*"), prefix, table.phase)


def _refused(path: Path, reason: str) -> ConfigError:
    """Put msgspec's words into ours: the file, the key with its table, what is wrong."""
    words, _, place = reason.partition(" - at `")
    table = place.strip("$.`")
    unknown = re.match(r"Object contains unknown field `(.*)`", words)
    if unknown:
        key = f"{table}.{unknown[1]}" if table else unknown[1]
        return ConfigError(f"{path}: unknown key '{escape(key)}'", "tracer/profiles/README.md lists the keys")
    return ConfigError(f"{path}: {escape(table or 'the file')}: {escape(words)}", _GUIDE)


def _faults(profile: _Profile) -> list[tuple[str, str, str]]:
    """Give key, value and what it should be, of everything that the types let through."""
    checks = [("name", profile.name, _NAME, "lower case letters, digits, dots and dashes")]
    for number, rule in enumerate(profile.phases):
        at = f"phases[{number}]"
        checks.append((f"{at}.method", rule.method, _METHOD, "an HTTP method in upper case"))
        checks.append((f"{at}.path", rule.path, _PATH, "a path from / on, with `*` at its end or nowhere"))
    for number, host in enumerate(profile.hosts):
        checks.append((f"hosts[{number}].name", host.name, _HOST, "a host's name in lower case, or *.NAME"))
    for number, purpose in enumerate(profile.purposes):
        checks.append((f"purposes[{number}].name", purpose.name, _NAME, "lower case letters, digits, dashes"))
    variables = [("api.environment", name) for name in (profile.api.environment if profile.api else ())]
    variables += [("switches.environment", name) for one in profile.switches for name in one.variables]
    checks += [(key, name, _VARIABLE, "a variable's name") for key, name in variables]
    faults = [(key, value, words) for key, value, form, words in checks if not form.match(value)]
    return faults + _strangers(profile) + _unkept(profile) + _unfindable(profile)


def _strangers(profile: _Profile) -> list[tuple[str, str, str]]:
    """Return what hosts refer to and no other table has."""
    switches = {one.name for one in profile.switches}
    purposes = {one.name for one in profile.purposes}
    requests = {f"{rule.method} {rule.path}" for rule in profile.phases}
    return [
        (f"hosts[{number}].{key}", name, words)
        for number, host in enumerate(profile.hosts)
        for key, names, known, words in (
            ("off", host.off, switches, "a [[switches]] name"),
            ("keep", host.keep, purposes, "a [[purposes]] name"),
            ("requests", host.requests, requests, "METHOD and path of a [[phases]] rule"),
        )
        for name in sorted(set(names) - known)
    ]


def _unkept(profile: _Profile) -> list[tuple[str, str, str]]:
    kept = {name for host in profile.hosts for name in host.keep}
    return [
        (f"purposes[{number}].{'phases' if one.name in kept else 'name'}", one.name, words)
        for number, one in enumerate(profile.purposes)
        for wrong, words in (
            (one.name not in kept, "in `keep` of any [[hosts]]"),
            (not one.phases, "bound to a phase: give `phases`"),
        )
        if wrong
    ]


def _unfindable(profile: _Profile) -> list[tuple[str, str, str]]:
    find = profile.find
    ways = (find.units, find.exes, find.images, find.containers, find.session)
    return [] if any(ways) else [("find", "", "enough: give units, exes, images, containers or session")]
