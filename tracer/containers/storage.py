"""Podman's and CRI-O's own state on disk: who is there although no service answers.

Both keep containers by the library containers/storage: DRIVER-containers/containers.json below its root (of
those that go with `--rm` in newer versions volatile-containers.json, there or below its run root), and image
names in DRIVER-images/images.json. The files are replaced as a whole, before a container's cgroup is made.
Read only; the locks of the library are not taken, since rename(2) shows the old file or the new one.

Sources: containers/storage containers.go, images.go (jsonPath, Save); `metadata`: libpod storage.go, cri-o
internal/storage/runtime.go.
"""

from __future__ import annotations

import json
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.containers.inotify import Inotify
from tracer.model.containers import Container, plain_image
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILES: Final = ("containers.json", "volatile-containers.json")
_SIZE_MAX: Final = 32 << 20  # bytes
_POLL_S: Final = 1.0  # where inotify(7) is not to be had
_ID_LEN: Final = 64


class Storage:
    """One root of containers/storage, with its run root. Methods raise OSError or ValueError."""

    def __init__(self, roots: tuple[Path, ...]) -> None:
        self._roots = roots
        self._images: dict[str, tuple[str, ...]] = {}
        self._images_at: tuple[tuple[str, int, int], ...] = ()

    def listing(self) -> list[Container]:
        """Return all containers that are kept."""
        found = []
        for folder in self._folders("containers"):
            for name in _FILES:
                found += [made for one in _read(folder / name) if (made := self._made(one)) is not None]
        return found

    def about(self, identifier: str) -> Container | None:
        """Return a container by its id or name; None: none is kept here."""
        return next((one for one in self.listing() if identifier in (one.id, one.name, *one.aliases)), None)

    def changes(self, quiet_s: float) -> Iterator[tuple[str, Container | None]]:
        """Yield an id and what it is now (None: removed), as they change; first ("", None): it listens.

        Ends with TimeoutError after `quiet_s`: to be listed anew.
        """
        until = time.monotonic() + quiet_s
        with Inotify() as notes:
            for folder in self._folders("containers"):
                notes.watch(folder)
            yield "", None
            known = {one.id: one for one in self.listing()}
            while (left := until - time.monotonic()) > 0:
                ready, _, _ = select.select([notes], [], [], min(left, _POLL_S))
                if ready:
                    notes.take()
                now = {one.id: one for one in self.listing()} if ready else known
                yield from ((key, one) for key, one in now.items() if known.get(key) != one)
                yield from ((key, None) for key in known.keys() - now.keys())
                known = now
        raise TimeoutError("looked long enough: listed anew")

    def _folders(self, kind: str) -> list[Path]:
        return [
            Path(entry.path)
            for root in self._roots
            for entry in _entries(root)
            if entry.name.endswith(f"-{kind}")
        ]

    def _made(self, one: Any) -> Container | None:  # noqa: ANN401 - JSON of a stranger
        if not isinstance(one, dict) or len(str(one.get("id", ""))) != _ID_LEN:
            return None
        told = _metadata(one.get("metadata"))
        names = [escape(str(name), 256) for name in one.get("names") or ()]
        pod = [told.get(key) for key in ("namespace", "pod-name", "metadata-name")]
        if all(isinstance(part, str) and part for part in pod):
            shown, aliases = escape("/".join(map(str, pod)), 256), tuple(names)
        elif names:
            shown, aliases = names[0], tuple(names[1:])
        else:
            return None
        image = told.get("image-name")
        images = [plain_image(escape(image, 256))] if isinstance(image, str) and image else []
        images += self._tags(str(one.get("image") or told.get("image-id") or ""))
        return Container(str(one["id"]), shown, tuple(dict.fromkeys(images)), aliases)

    def _tags(self, image: str) -> tuple[str, ...]:
        """Return the names of an image."""
        files = [folder / "images.json" for folder in self._folders("images")]
        stamps = tuple((str(one), *_stamp(one)) for one in files)
        if stamps != self._images_at:
            known = [one for file in files for one in _read(file) if isinstance(one, dict)]
            self._images = {
                str(one.get("id")): tuple(
                    plain_image(escape(str(name), 256)) for name in one.get("names") or ()
                )
                for one in known
            }
            self._images_at = stamps
        return self._images.get(image, ())


def _entries(root: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _read(file: Path) -> list[Any]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(_SIZE_MAX)
    except FileNotFoundError:
        return []
    found = json.loads(raw) if raw.strip() else []
    if not isinstance(found, list):
        raise ValueError("it is no list")  # noqa: TRY004 - of the file, not of ours
    return found


def _metadata(text: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON of a stranger
    try:
        found = json.loads(text) if isinstance(text, str) and text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
