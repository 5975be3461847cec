"""The configuration file, /etc/tattle/tattle.toml: checked as a whole, unknown keys refused by name."""

from __future__ import annotations

import difflib
import mmap
import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from tracer.errors import ConfigError, TattleError, UsageError
from tracer.model.text import escape
from tracer.policy.rules import Mode, Policy, compile_policy
from tracer.targets.finder import parse

DEFAULT_PATH: Final = Path("/etc/tattle/tattle.toml")
DEFAULT_LISTEN: Final = "127.0.0.1:9753"

Entries = Annotated[int, msgspec.Meta(ge=64, le=1 << 22)]
Destinations = Annotated[int, msgspec.Meta(ge=1, le=5000)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file: every key has a default, none may be unknown."""


class Targets(_Table, frozen=True):
    """[targets]: what is watched, and what containers may do that no engine can tell of."""

    watch: tuple[str, ...] = ()
    undecided: Literal["hold", "pass"] = "hold"


class Observe(_Table, frozen=True):
    """[observe]: what is counted."""

    loopback: bool = False  # loopback of all processes, not of targets only


class Labels(_Table, frozen=True):
    """[labels]: opt-in labels of the metrics."""

    pid: bool = False  # a series for each process: for short investigations


class Metrics(_Table, frozen=True):
    """[metrics]: the bounds of the exporter."""

    max_destinations: Destinations = 50  # for each target; the rest is `other`


class Web(_Table, frozen=True):
    """[web]: who may ask over HTTP. All are paths; needed where `listen` can be reached from the network."""

    token_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    insecure: bool = False  # go without, on purpose: something else guards the door
    control: bool | None = None  # may the page switch, for who has a link of `tattle open`; None: on loopback


class Limits(_Table, frozen=True):
    """[limits]: sizes of the kernel's tables, in entries, and of the ring, in bytes."""

    flows: Entries = 65536
    processes: Entries = 16384
    cgroups: Entries = 8192
    ring_bytes: int = 2 << 20  # a power of two of pages: BPF_MAP_TYPE_RINGBUF, kernel/bpf/ringbuf.c


class History(_Table, frozen=True):
    """[history]: what is kept on disk; whole hours that are older or do not fit are deleted."""

    enabled: bool = True
    days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 30
    max_mb: Annotated[int, msgspec.Meta(ge=4, le=1 << 16)] = 256


class Notify(_Table, frozen=True):
    """[notify]: whom the daemon tells what `tattle notify` shows, beside root; by name or number."""

    groups: tuple[str, ...] = ("adm", "sudo", "wheel", "systemd-journal")


class PolicyTable(_Table, frozen=True):
    """[[policy]]: what a target may do; as `tattle block` says it."""

    target: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    default: Literal["deny", "allow"] = "deny"
    mode: Mode = Mode.ENFORCE
    strict: bool = False  # no answers to whom the target has let in, either
    keep: tuple[str, ...] = ()  # purposes of its profile whose hosts stay open in their phases

    def policy(self) -> Policy:
        """Give it as a policy."""
        allowed = self.default == "allow"
        return Policy(self.target, self.allow, self.deny, allowed, self.mode, self.strict, self.keep)


class Config(_Table, frozen=True):
    """The whole file."""

    listen: str = DEFAULT_LISTEN
    log_file: str | None = None  # a path, or - for standard output
    targets: tuple[str, ...] | Targets = ()  # once loaded, what [targets] watches
    undecided: Literal["hold", "pass"] = "hold"  # [targets] undecided
    engine: Literal["libbpf", "bcc"] = "libbpf"  # bcc: compiled on this host
    program_stats: bool = False  # BPF_ENABLE_STATS: run times of the programs, about 20 ns a run
    observe: Observe = Observe()
    labels: Labels = Labels()
    metrics: Metrics = Metrics()
    web: Web = Web()
    limits: Limits = Limits()
    history: History = History()
    notify: Notify = Notify()
    policy: tuple[PolicyTable, ...] = ()

    @property
    def watched(self) -> tuple[str, ...]:
        """The targets that are watched."""
        return self.targets.watch if isinstance(self.targets, Targets) else self.targets

    def policies(self) -> tuple[Policy, ...]:
        """Give the policies of the [[policy]] tables."""
        return tuple(table.policy() for table in self.policy)


def load(path: Path | None) -> Config:
    """Read a configuration; without a `path` the default one, which may be absent.

    Raises ConfigError that names the file and the key.
    """
    file = path or DEFAULT_PATH
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        if path is None:
            return Config()
        raise ConfigError(
            f"no such configuration file: {file}", "give an existing one with --config"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}", "give a readable file with --config"
        ) from None
    return parse_config(raw, str(file))


def parse_config(raw: bytes, name: str) -> Config:
    """Check the text of a configuration; `name` stands for it in errors."""
    try:
        config = msgspec.toml.decode(raw, type=Config)
    except msgspec.ValidationError as error:
        raise _refused(name, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is no TOML: {error}", "mend that place; see https://toml.io") from None
    if isinstance(config.targets, Targets):
        told = config.targets
        config = msgspec.structs.replace(config, targets=told.watch, undecided=told.undecided)
    try:
        _check(config)
    except TattleError as error:
        raise ConfigError(f"{name}: {error.message}", error.hint) from None
    return config


def address(listen: str) -> tuple[str, int]:
    """Take HOST:PORT apart (IPv6 in brackets); raises UsageError that quotes it."""
    host, colon, port = listen.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in host and bare == host) or not port.isdecimal() or int(port) > 0xFFFF:  # noqa: PLR2004 - the highest port
        raise UsageError(
            f"'{listen}' is no address to listen on", f"give HOST:PORT, such as {DEFAULT_LISTEN}"
        )
    return bare, int(port)


def _check(config: Config) -> None:
    address(config.listen)
    size = config.limits.ring_bytes
    if size < mmap.PAGESIZE or size & (size - 1):
        raise UsageError(
            f"limits.ring_bytes = {size} is no power of two of at least {mmap.PAGESIZE}", "such as 4194304"
        )
    for target in (*config.watched, *(table.target for table in config.policy)):
        parse(target)
    for policy in config.policies():
        compile_policy(policy)
    named = [table.target for table in config.policy]
    if twice := next((target for target in named if named.count(target) > 1), None):
        raise UsageError(f"two [[policy]] tables are for '{escape(twice)}'", "put their rules into one")


def _refused(name: str, reason: str) -> ConfigError:
    """Put msgspec's words into ours: the key with its table, and the nearest key that exists."""
    unknown = re.match(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", reason)
    if unknown is None:
        expected = re.match(r"(.*?)(?: - at `\$\.?(.*)`)?\Z", reason)
        words, key = expected.groups() if expected else (reason, "")
        return ConfigError(f"{name}: {key or 'the file'}: {words}", "see the commented example tattle.toml")
    table = f"{unknown[2]}." if unknown[2] else ""
    keys = _known()
    near = difflib.get_close_matches(table + unknown[1], keys, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(keys)}"
    return ConfigError(f"{name}: unknown key '{table}{unknown[1]}'", hint)


def _known() -> list[str]:
    keys = []
    for field in msgspec.structs.fields(Config):
        tables = isinstance(field.type, type) and issubclass(field.type, _Table)
        inner = msgspec.structs.fields(field.type) if tables else ()
        keys += [f"{field.name}.{key.name}" for key in inner] if tables else [field.name]
    return keys
