"""What a runtime's privacy switches are set to, read where they can stand; nothing else is read or told.

Of a process's environment only the variables that a profile names are looked at. The runtime's own interface
is asked on loopback and nowhere else: this is the one connection that tattle ever makes.
"""

from __future__ import annotations

import http.client
import json
import os
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.model.text import escape
from tracer.runtimes.detect import arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.runtimes.profiles import Api, Runtime, Switch

Json = dict[str, Any]

_TIMEOUT_S: Final = 1.0
_MOST: Final = 1 << 16  # bytes of an answer or a file; they have a few hundred
_VALUE_MAX: Final = 128
_ON: Final = frozenset({"1", "true", "yes", "on"})
_OFF: Final = frozenset({"0", "false", "no", "off"})
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
            return "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - IP's version
        return str(address) if address.is_loopback else None


def environment(process: Path, names: set[str]) -> dict[str, str]:
    """Give these variables of a process, as far as it was started with them, and no others."""
    try:
        raw = (process / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0"))
    wanted = {os.fsencode(name): name for name in names}
    return {wanted[key]: escape(value, _VALUE_MAX) for key, _, value in pairs if key in wanted}


def addresses(process: Path, api: Api) -> tuple[Address, ...]:
    """Give where the interface listens: as arguments or environment say, else as it does by default."""
    given, found = arguments(process), environment(process, set(api.environment))
    told = [(_after(given, name), name) for name in api.arguments]
    told += [(found.get(name), name) for name in api.environment]
    taken = [
        address
        for value, name in told
        if value is not None and (address := _address(value, api.ports[0], name)) is not None
    ]
    return tuple(taken) or tuple(Address("127.0.0.1", port, "default") for port in api.ports)


def _address(text: str, port: int, source: str) -> Address | None:
    """Take [SCHEME://]HOST:PORT, HOST or PORT apart; None: it is none of these."""
    rest = text.partition("://")[2] or text
    rest = rest.partition("/")[0]
    if rest.isdecimal():
        host, number = "127.0.0.1", rest
    elif rest.startswith("[") or rest.count(":") == 1:
        host, _, number = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    else:
        host, number = rest, ""
    if number and not (number.isascii() and number.isdecimal() and 0 < int(number) <= _HIGHEST_PORT):
        return None
    return Address(host.strip("[]"), int(number) if number else port, source)


def _after(given: list[str], name: str) -> str | None:
    """Give the value of an option: the next argument, or what stands behind `=`."""
    for at, word in enumerate(given):
        if word == name:
            return escape(given[at + 1], _VALUE_MAX) if at + 1 < len(given) else None
        if word.startswith(f"{name}="):
            return escape(word.partition("=")[2], _VALUE_MAX)
    return None


def seen(process: Path, runtime: Runtime, listening: tuple[Address, ...]) -> dict[str, tuple[Seen, ...]]:
    """Read all switches of a runtime's process; the effective one, its own word, stands last."""
    found = environment(process, {one.environment for one in runtime.switches if one.environment})
    given = arguments(process)
    return {one.name: tuple(_places(one, process, found, given, listening)) for one in runtime.switches}


def _places(
    one: Switch, process: Path, found: dict[str, str], given: list[str], listening: tuple[Address, ...]
) -> Iterator[Seen]:
    if one.environment in found:
        value = found[one.environment]
        yield Seen("environment", value, is_private(value, one.private))
    if one.argument and one.argument in given:
        yield Seen("argument", one.argument, private=True)
    if one.file and isinstance(said := _from_file(process, one.file.path, one.file.key), bool):
        yield Seen(one.file.path, str(said).lower(), said)
    if one.api and isinstance(said := _from_api(process, listening, one.api.path, one.api.key), bool):
        yield Seen(f"GET {one.api.path}", str(said).lower(), said)


def is_private(value: str, private: str) -> bool:
    """Tell whether a variable has the value that stops something, in any of its spellings."""
    words = next((group for group in (_ON, _OFF) if private.lower() in group), frozenset({private.lower()}))
    return value.strip().lower() in words


def _from_file(process: Path, path: str, key: str) -> object:
    """Read a key of a JSON file, in the home of who runs the process, as the process sees the files."""
    home = _home(process)
    if home is None:
        return None
    return _key(_regular(process / "root" / path.replace("~", home, 1).lstrip("/")), key)


def _home(process: Path) -> str | None:
    """Give the home of the process's user by the users' list that the process sees (passwd(5))."""
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


def _from_api(process: Path, listening: tuple[Address, ...], path: str, key: str) -> object:
    """Ask the interface on loopback, if the process lives in the network that tattle sees."""
    if not _same_network(process):
        return None
    for address in listening:
        if address.near is not None:
            return _key(_get(address.near, address.port, path), key)
    return None


def _same_network(process: Path) -> bool:
    try:
        return (process / "ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    except OSError:
        return False


def _get(host: str, port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(_MOST)
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()
