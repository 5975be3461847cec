"""The environment that a service will be started with next, as its unit's files say (systemd.exec(5))."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# systemd.unit(5): where units of the system stand, the strongest first
UNIT_PATHS: Final = tuple(
    map(
        Path,
        (
            "/etc/systemd/system",
            "/run/systemd/system",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
        ),
    )
)
_MOST: Final = 1 << 16  # bytes of a file that are read
_VALUE_MAX: Final = 128


class Setting(NamedTuple):
    """A variable's value, and the file that sets it."""

    value: str
    file: str


def unit_file(unit: str, places: Iterable[Path] = UNIT_PATHS) -> Path | None:
    """Return the file of a unit; None where it has none."""
    return next((place / unit for place in places if (place / unit).exists()), None)


def settings(unit: str, names: set[str], places: Iterable[Path] = UNIT_PATHS) -> dict[str, Setting]:
    """Return these variables as the unit and its drop-ins set them; EnvironmentFile= beats Environment=."""
    inline: dict[str, Setting] = {}
    files: list[str] = []
    for path in _files(unit, tuple(places)):
        for key, value in _assignments(_text(path)):
            if key == "Environment":
                inline = inline | _variables(value, path) if value else {}
            elif key == "EnvironmentFile":
                files = [*files, value] if value else []
    for name in files:
        inline |= _from_file(Path(name.removeprefix("-")))
    return {name: inline[name] for name in inline.keys() & names}


def _files(unit: str, places: tuple[Path, ...]) -> Iterator[Path]:
    """Yield a unit's file and its drop-ins, the weakest first; of those of one name the strongest alone."""
    if (path := unit_file(unit, places)) is not None:
        yield path
    parts: dict[str, Path] = {}
    for place in reversed(places):
        parts |= {part.name: part for part in (place / f"{unit}.d").glob("*.conf")}
    yield from (parts[name] for name in sorted(parts))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Yield the assignments of [Service]; a line that ends in a backslash goes on in the next."""
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        bare = line.strip()
        if bare.startswith("["):
            section = bare
        elif section == "[Service]" and bare[:1] not in ("#", ";"):
            key, _, value = bare.partition("=")
            yield key.strip(), value.strip()


def _variables(text: str, file: Path) -> dict[str, Setting]:
    try:
        words = shlex.split(text)
    except ValueError:
        return {}  # systemd ignores a line that it cannot take apart, too
    pairs = (word.partition("=") for word in words)
    return {name: Setting(escape(value, _VALUE_MAX), str(file)) for name, _, value in pairs}


def _from_file(path: Path) -> dict[str, Setting]:
    """Read a file of variables, one a line; one that is not there sets nothing."""
    found: dict[str, Setting] = {}
    for line in _text(path).splitlines():
        name, mark, value = line.strip().partition("=")
        if mark and name[:1] not in ("#", ";"):
            bare = value.strip()
            bare = bare[1:-1] if bare[:1] in ("'", '"') and bare[-1:] == bare[:1] else bare
            found[name.strip()] = Setting(escape(bare, _VALUE_MAX), str(path))
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode("utf-8", "replace")
    except OSError:
        return ""
