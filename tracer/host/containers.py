"""Names of containers, asked of local sockets: Docker's, Podman's that speaks the same, a Kubernetes node's.

Nothing is asked over a network. An engine that does not answer is left alone for a while, so that a hung one
cannot hold up what tattle is for.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from pathlib import Path
from typing import Final

from tracer.host import cri
from tracer.model.text import escape

SOCKETS: Final = ("/run/docker.sock", "/run/podman/podman.sock")
_TIMEOUT_S: Final = 0.3
_PAUSE_S: Final = 60.0
_CACHE_MAX: Final = 1024
_TAG: Final = re.compile(r"(?::[^/:@]*)?(?:@.*)?\Z")  # REGISTRY:PORT/NAME:TAG@DIGEST
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")  # moby: daemon/names/names.go


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


class ContainerEngines:
    """Turns ids into names and names into ids; None where no engine knows."""

    def __init__(self, sockets: tuple[str, ...] = SOCKETS, runtimes: tuple[str, ...] = cri.SOCKETS) -> None:
        self._sockets = sockets
        self._runtimes = runtimes
        self._known: dict[str, tuple[str | None, str | None]] = {}
        self._silent_until: dict[str, float] = {}

    def name_of(self, identifier: str) -> str | None:
        """Give the name of the container with this 64-digit id; remembered, absence too."""
        return self._about(identifier)[0]

    def image_of(self, identifier: str) -> str | None:
        """Give the image, without tag or digest, of the container with this 64-digit id."""
        return self._about(identifier)[1]

    def _about(self, identifier: str) -> tuple[str | None, str | None]:
        if identifier not in self._known:
            if len(self._known) >= _CACHE_MAX:
                self._known.clear()
            name, image = self._ask_runtimes(identifier) or self._ask_engines(identifier)
            self._known[identifier] = name, _TAG.sub("", image) if image else None
        return self._known[identifier]

    def id_of(self, name: str) -> str | None:
        """Give the 64-digit id of the container with this name."""
        answer = self._ask(name) if _NAME.match(name) else None
        found = answer.get("Id") if answer else None
        return found if isinstance(found, str) else None

    def _ask_runtimes(self, identifier: str) -> tuple[str, str | None] | None:
        for path in self._runtimes:
            if time.monotonic() < self._silent_until.get(path, 0.0) or not Path(path).is_socket():
                continue
            try:
                found = cri.about(path, identifier, _TIMEOUT_S)
            except (OSError, ValueError):
                self._silent_until[path] = time.monotonic() + _PAUSE_S
                continue
            if found is not None:
                return found
        return None

    def _ask_engines(self, identifier: str) -> tuple[str | None, str | None]:
        answer = self._ask(identifier) or {}
        name, settings = answer.get("Name"), answer.get("Config")
        image = settings.get("Image") if isinstance(settings, dict) else None
        return (
            escape(name.lstrip("/"), 128) if isinstance(name, str) else None,
            image if isinstance(image, str) else None,
        )

    def _ask(self, container: str) -> dict[str, object] | None:
        for path in self._sockets:
            if time.monotonic() < self._silent_until.get(path, 0.0) or not Path(path).is_socket():
                continue
            connection = _UnixConnection(path)
            try:
                connection.request("GET", f"/containers/{container}/json")
                answer = json.loads(connection.getresponse().read(1 << 20))
            except (OSError, ValueError, http.client.HTTPException):
                self._silent_until[path] = time.monotonic() + _PAUSE_S
                continue
            finally:
                connection.close()
            if isinstance(answer, dict) and "Id" in answer:
                return answer
        return None
