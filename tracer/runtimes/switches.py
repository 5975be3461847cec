"""What a runtime's privacy switches are set to, read where they can stand; nothing else is read or told.

Of a process's environment only the variables that a profile names are looked at. The runtime's own interface
is asked on loopback and nowhere else (questions.py), and only at a socket that the runtime itself listens on.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from tracer.host import network
from tracer.model.text import escape
from tracer.runtimes import questions
from tracer.runtimes.detect import arguments
from tracer.runtimes.spelling import OFF, is_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tracer.host.network import Listener
    from tracer.runtimes.profiles import Api, Runtime, Switch

Json = dict[str, Any]

ENVIRONMENT: Final = "environment"
LISTENING: Final = "listening"  # the source of an address that the kernel told
ASKED: Final = "GET "
_MOST: Final = 1 << 16  # bytes of a file; it has a few hundred
_VALUE_MAX: Final = 128
_HIGHEST_PORT: Final = 0xFFFF


@dataclass(frozen=True)
class Seen:
    """A switch as it stands in one place; `private` says whether that value keeps the runtime silent."""

    where: str
    value: str
    private: bool


@dataclass(frozen=True)
class Address:
    """Where a runtime's interface is said to listen; `source` is what says so."""

    host: str
    port: int
    source: str

    @property
    def near(self) -> str | None:
        """The loopback address by which it can be asked; None where it has none."""
        try:
            address = ip_address("127.0.0.1" if self.host in ("", "localhost") else self.host)
        except ValueError:
            return None
        if address.is_unspecified:
            return "127.0.0.1"  # `::` takes IPv4, too, unless it was told not to
        return str(address) if address.is_loopback else None


def environment(process: Path, names: set[str]) -> dict[str, str]:
    """Give these variables of a process, as far as it was started with them, and no others."""
    try:
        raw = (process / "environ").read_bytes()
    except OSError:
        return {}
    pairs = [entry.partition(b"=") for entry in raw.split(b"\0")]
    wanted = {os.fsencode(name): name for name in names}
    first = reversed(pairs)  # of a name that stands twice, getenv(3) returns the first
    return {wanted[key]: escape(value, _VALUE_MAX) for key, _, value in first if key in wanted}


def addresses(process: Path, api: Api) -> tuple[Address, ...]:
    """Return where the interface listens as arguments or environment say, else as it does by default."""
    given, found = arguments(process), environment(process, set(api.environment))
    told = [(_after(given, name), name) for name in api.arguments]
    told += [(found.get(name), name) for name in api.environment]
    taken = [
        address
        for value, name in told
        if value is not None and (address := _address(value, api, name)) is not None
    ]
    return tuple(taken) or tuple(Address("127.0.0.1", port, "default") for port in api.ports)


def listening(processes: Iterable[Path]) -> tuple[Address, ...]:
    """Return where these processes listen, as the kernel says; empty where it may not be asked."""
    found: dict[Address, None] = {}
    known: dict[str, tuple[Listener, ...]] = {}
    for process in processes:
        held = network.sockets(process)
        try:
            here = str((process / "ns/net").readlink()) if held else ""
            known[here] = known.get(here) or (network.listeners(process) if held else ())
        except OSError:
            continue
        mine = [one for one in known[here] if held and one.inode in held]
        found.update({Address(one.address, one.port, LISTENING): None for one in mine})
    return tuple(found)


def _address(text: str, api: Api, source: str) -> Address | None:
    """Take [SCHEME://]HOST:PORT, HOST or PORT apart; None: it is none of these."""
    scheme, _, rest = text.strip().strip("\"'").rpartition("://")
    default = api.schemes.get(scheme, api.ports[0])
    rest = rest.partition("/")[0]
    if rest.isdecimal():
        host, number = "127.0.0.1", rest
    elif rest.startswith("[") or rest.count(":") == 1:
        host, _, number = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    else:
        host, number = rest, ""
    if number and not (number.isascii() and number.isdecimal() and 0 < int(number) <= _HIGHEST_PORT):
        return None
    return Address(host.strip("[]"), int(number) if number else default, source)


def _after(given: list[str], name: str) -> str | None:
    """Give the value of an option: the next argument, or what stands behind `=`."""
    for at, word in enumerate(given):
        if word == name:
            return escape(given[at + 1], _VALUE_MAX) if at + 1 < len(given) else None
        if word.startswith(f"{name}="):
            return escape(word.partition("=")[2], _VALUE_MAX)
    return None


def seen(process: Path, runtime: Runtime, found: tuple[Address, ...]) -> dict[str, tuple[Seen, ...]]:
    """Read all switches of a runtime's process; its own word, which wins, stands last.

    Asked is only where the process is known to listen: elsewhere a stranger may answer.
    """
    values = environment(process, {name for one in runtime.switches for name in one.variables})
    given = arguments(process)
    return {one.name: tuple(_places(one, process, values, given, found)) for one in runtime.switches}


def _places(
    one: Switch, process: Path, values: dict[str, str], given: list[str], found: tuple[Address, ...]
) -> Iterator[Seen]:
    if (argument := _argument(one, given)) is not None:
        yield argument
    for name in _counting(one, values):
        where = ENVIRONMENT if name == one.environment else f"{ENVIRONMENT} {name}"
        yield Seen(where, values[name], is_private(values[name], one.private, one.spelling))
    if one.file and isinstance(said := _from_file(process, one.file.path, one.file.key), bool):
        yield Seen(one.file.path, str(said).lower(), said is (one.private not in OFF))
    if one.api and isinstance(said := _from_api(process, found, one.api.path, one.api.key), bool):
        yield Seen(f"{ASKED}{one.api.path}", str(said).lower(), said)


def _argument(one: Switch, given: list[str]) -> Seen | None:
    if one.argument and not one.private:
        return Seen("argument", one.argument, private=True) if one.argument in given else None
    value = _after(given, one.argument) if one.argument else None
    if value is None:
        return None
    return Seen("argument", f"{one.argument} {value}", is_private(value, one.private, one.spelling))


def _counting(one: Switch, values: dict[str, str]) -> list[str]:
    """Return the variables that count: of those that stand in for one another, the first that is set."""
    chain = [name for name in (one.environment, *one.fallback) if name in values]
    chain = [name for name in chain if values[name]] or chain
    return [*chain[:1], *(name for name in one.also if name in values)]


def is_set(one: Switch, places: tuple[Seen, ...]) -> bool:
    """Tell whether a switch holds: the runtime's own word wins over what is written, then what it prefers."""
    if places and places[-1].where.startswith(ASKED):
        return places[-1].private
    if one.prefer and (preferred := [at for at in places if at.where == one.prefer]):
        return preferred[0].private
    return any(at.private for at in places)


def _from_file(process: Path, path: str, key: str) -> object:
    """Read a key of a JSON file, in the home of who runs the process, as the process sees the files."""
    home = _home(process)
    if home is None:
        return None
    return _key(_regular(process / "root" / path.replace("~", home, 1).lstrip("/")), key)


def _home(process: Path) -> str | None:
    """Return $HOME as the process was started with it, else its user's home (passwd(5)), as it sees them."""
    home = environment(process, {"HOME"}).get("HOME", "")
    if home.startswith("/") and ".." not in home.split("/"):
        return home
    try:
        uid = str(process.stat().st_uid)
    except OSError:
        return None
    for line in _regular(process / "root/etc/passwd").decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) > 5 and fields[2] == uid:  # noqa: PLR2004 - the sixth is the home
            return fields[5]
    return None


def _regular(path: Path) -> bytes:
    """Read the head of a regular file; a pipe that somebody put there would never end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read(_MOST) if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def _key(raw: bytes, key: str) -> object:
    """Go down a JSON document by a dotted key; None where it does not lead anywhere."""
    try:
        found: object = json.loads(raw)
    except ValueError:
        return None
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _from_api(process: Path, found: tuple[Address, ...], path: str, key: str) -> object:
    """Ask the interface on loopback, as it is in the process's own network."""
    for address in found:
        if address.source == LISTENING and address.near is not None and ":" not in address.near:
            return _key(questions.ask(process, address.near, address.port, path), key)
    return None
