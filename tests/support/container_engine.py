"""A container engine that speaks Docker's API and misbehaves when told to."""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that have hung up."""


class ContainerEngine:
    """Serves containers on a unix socket; `mood` is well, hang, garbage, error or hangup."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mood = "well"
        self.containers: dict[str, dict[str, Any]] = {}
        self.images: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self._listeners: list[queue.Queue[bytes | None]] = []
        self._released = threading.Event()
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to listen."""
        self.path.unlink(missing_ok=True)
        self._released.clear()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                engine.answer(self)

            def address_string(self) -> str:
                return "local"

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """End, and hang up on all who listen."""
        self._released.set()
        for one in self._listeners:
            one.put(None)
        self._listeners.clear()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.path.unlink(missing_ok=True)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request, in the present mood."""
        self.asked.append(request.path)
        if self.mood == "hang":
            self._released.wait(30)
        elif self.mood == "hangup":
            request.connection.close()
        elif self.mood == "garbage":
            request.wfile.write(b"\x00\xff" * 4096)
        elif self.mood == "error":
            self._send(request, 500, {"message": "no space left on device"})
        elif request.path.startswith("/events"):
            self._stream(request)
        else:
            self._send(request, *self._found(request.path.partition("?")[0].split("/")))

    def _found(self, parts: list[str]) -> tuple[int, Any]:
        if parts[1:] == ["containers", "json"]:
            return 200, [self._listed(one) for one in self.containers.values()]
        if parts[1] == "containers":
            known = [
                one for one in self.containers.values() if parts[2] in (one["Id"], one["Name"].lstrip("/"))
            ]
            return (200, known[0]) if known else (404, {"message": "No such container"})
        return 200, {"RepoTags": self.images.get(parts[2].replace("%3A", ":"), [])}

    @staticmethod
    def _listed(one: dict[str, Any]) -> dict[str, Any]:
        told = one["Config"]
        return {
            "Id": one["Id"],
            "Names": [one["Name"]],
            "Image": told["Image"],
            "ImageID": one["Image"],
            "Labels": told["Labels"],
        }

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, body: Any) -> None:  # noqa: ANN401 - JSON
        request.send_response(status)
        request.end_headers()
        request.wfile.write(json.dumps(body).encode())

    def _stream(self, request: BaseHTTPRequestHandler) -> None:
        notes: queue.Queue[bytes | None] = queue.Queue()
        self._listeners.append(notes)
        request.send_response(200)
        request.end_headers()
        request.wfile.flush()
        while (note := notes.get()) is not None:
            request.wfile.write(note)
            request.wfile.flush()

    def tell(self, action: str, identifier: str, **attributes: str) -> None:
        """Send an event to all who listen."""
        event = {"Type": "container", "Action": action, "Actor": {"ID": identifier, "Attributes": attributes}}
        for one in self._listeners:
            one.put(json.dumps(event).encode() + b"\n")

    def create(
        self, identifier: str, name: str, image: str, image_id: str = "sha256:0", **labels: str
    ) -> None:
        """Make a container, and tell of it."""
        told = {key.replace("__", "."): value for key, value in labels.items()}
        self.containers[identifier] = {
            "Id": identifier,
            "Name": f"/{name}",
            "Image": image_id,
            "Config": {"Image": image, "Labels": told},
        }
        self.tell("create", identifier, name=name, image=image, **told)

    def remove(self, identifier: str) -> None:
        """Remove a container, and tell of it."""
        del self.containers[identifier]
        self.tell("destroy", identifier)
