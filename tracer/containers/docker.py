"""Docker's API over its local socket, and Podman's that speaks the same: a list, one container, the events.

Engine API 1.24 and later (docs.docker.com/reference/api/engine): /containers/json, /containers/ID/json,
/images/ID/json, /events. Paths carry no version: each engine then answers as its own.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tracer.model.containers import Container, plain_image
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER_MAX: Final = 16 << 20  # bytes
_EVENT_MAX: Final = 1 << 16
_IMAGES_MAX: Final = 512
_FILTERS: Final = quote('{"type":["container"]}')
_ID_LEN: Final = 64
_FRESH: Final = ("create", "rename", "start", "restart")  # moby api/types/events: when a name may be new
_COMPOSE: Final = (
    ("com.docker.compose.project", "com.docker.compose.service"),
    ("io.podman.compose.project", "com.docker.compose.service"),
)
_POD: Final = tuple(f"io.kubernetes.{part}" for part in ("pod.namespace", "pod.name", "container.name"))


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DockerApi:
    """One engine's socket. All methods raise OSError (TimeoutError among them) or ValueError."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._images: dict[str, tuple[str, ...]] = {}

    def listing(self) -> list[Container]:
        """Return all containers, those that do not run too."""
        answer = self._get("/containers/json?all=1")
        if not isinstance(answer, list):
            raise ValueError("the list of containers is none")  # noqa: TRY004 - of the engine, not of ours
        return [found for one in answer if (found := self._listed(one)) is not None]

    def about(self, identifier: str) -> Container | None:
        """Return a container by its id or name; None: the engine knows none."""
        answer = self._get(f"/containers/{quote(identifier, safe='')}/json")
        return self._inspected(answer) if answer is not None else None

    def changes(self, quiet_s: float) -> Iterator[tuple[str, Container | None]]:
        """Yield an id and what it is now (None: removed), as they change; first ("", None): it listens.

        Ends with TimeoutError where nothing has come for `quiet_s`.
        """
        connection = _Connection(self._path, self._timeout_s)
        try:
            connection.request("GET", f"/events?filters={_FILTERS}")
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise ValueError(f"events are answered with status {response.status}")
            if connection.sock is not None:
                connection.sock.settimeout(quiet_s)
            yield "", None
            while line := response.readline(_EVENT_MAX):
                yield from self._told(json.loads(line))
        except http.client.HTTPException as error:
            raise ValueError(f"no HTTP: {error!r}") from None
        finally:
            connection.close()
        raise ConnectionResetError("it has hung up")

    def _told(self, event: Any) -> Iterator[tuple[str, Container | None]]:  # noqa: ANN401 - JSON of a stranger
        actor, action = _dict(event.get("Actor")), str(event.get("Action", ""))
        identifier = str(actor.get("ID", ""))
        if len(identifier) != _ID_LEN:
            return
        if action in ("destroy", "remove"):
            yield identifier, None
        elif action in _FRESH:
            labels = _dict(actor.get("Attributes"))
            yield identifier, self._made(identifier, labels.get("name"), labels.get("image"), labels, "")
            yield identifier, self.about(identifier)  # what its image is called besides

    def _get(self, path: str) -> Any:  # noqa: ANN401 - JSON of a stranger
        connection = _Connection(self._path, self._timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(_ANSWER_MAX)
        except http.client.HTTPException as error:
            raise ValueError(f"no HTTP: {error!r}") from None
        finally:
            connection.close()
        if response.status == http.client.NOT_FOUND:
            return None
        if response.status != http.client.OK:
            raise ValueError(f"answered with status {response.status}")
        return json.loads(body)

    def _listed(self, one: Any) -> Container | None:  # noqa: ANN401
        one = _dict(one)
        names = [name for name in one.get("Names") or () if isinstance(name, str)]
        own = next((name for name in names if name.count("/") <= 1), "")  # others are links: /OTHER/ALIAS
        return self._made(one.get("Id"), own, one.get("Image"), _dict(one.get("Labels")), one.get("ImageID"))

    def _inspected(self, answer: Any) -> Container | None:  # noqa: ANN401
        answer = _dict(answer)
        settings = _dict(answer.get("Config"))
        labels = _dict(settings.get("Labels"))
        return self._made(
            answer.get("Id"), answer.get("Name"), settings.get("Image"), labels, answer.get("Image")
        )

    def _made(
        self,
        identifier: Any,  # noqa: ANN401
        name: Any,  # noqa: ANN401
        image: Any,  # noqa: ANN401
        labels: dict[str, Any],
        image_id: Any,  # noqa: ANN401
    ) -> Container | None:
        if not isinstance(identifier, str) or not isinstance(name, str):
            return None
        own = escape(name.lstrip("/"), 128)
        pod = [labels.get(label) for label in _POD]
        aliases = [own] if all(isinstance(part, str) for part in pod) else []
        aliases += [
            escape(f"{labels[project]}/{labels[service]}", 256)
            for project, service in _COMPOSE
            if isinstance(labels.get(project), str) and isinstance(labels.get(service), str)
        ]
        shown = escape("/".join(map(str, pod)), 256) if all(isinstance(part, str) for part in pod) else own
        told = [escape(plain_image(image), 256)] if isinstance(image, str) and image else []
        more = self._tags(image_id) if isinstance(image_id, str) else ()
        return Container(
            identifier, shown, tuple(dict.fromkeys((*told, *more))), tuple(dict.fromkeys(aliases))
        )

    def _tags(self, image: str) -> tuple[str, ...]:
        """Return the names of an image by its id: a container may be made by that, or by another name."""
        if not image.startswith("sha256:"):
            return ()
        if image not in self._images:
            answer = _dict(self._get(f"/images/{quote(image, safe='')}/json") or {})
            tags = [*(answer.get("RepoTags") or ()), *(answer.get("RepoDigests") or ())]
            if len(self._images) >= _IMAGES_MAX:
                self._images.clear()
            names = (escape(plain_image(one), 256) for one in tags if isinstance(one, str))
            self._images[image] = tuple(dict.fromkeys(names))
        return self._images[image]


def _dict(value: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON of a stranger
    return value if isinstance(value, dict) else {}
