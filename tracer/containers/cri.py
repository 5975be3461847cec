"""Pods and containers, asked of a Kubernetes node's container runtime over its local socket.

containerd and CRI-O speak gRPC there. No API server is asked: kubelet gives each container's names to the
runtime. Changes come by GetContainerEvents (CRI-O, containerd 1.7), else by containerd's own events, else by
looking again.

Sources: runtime.v1 (api.proto of kubernetes/cri-api); containerd api/services/events/v1/events.proto and
api/events/container.proto.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tracer.containers import grpc
from tracer.containers.grpc import field, fields
from tracer.model.containers import Container, plain_image
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVICE, _IMAGES = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"
_SUBSCRIBE: Final = "/containerd.services.events.v1.Events/Subscribe"
_CREATED, _DELETED = b"/containers/create", b"/containers/delete"  # topics
_KUBERNETES: Final = "k8s.io"  # containerd pkg/cri/constants: the namespace of all pods
_POLL_S: Final = 0.5
_UNTOLD_S: Final = 0.5  # containerd knows a container before its CRI plugin tells its names
_ID_LEN: Final = 64
SANDBOX: Final = "POD"
"""The name of a pod's own container, as kubelet names it."""
_POD, _NAMESPACE, _NAME = (
    f"io.kubernetes.{part}" for part in ("pod.name", "pod.namespace", "container.name")
)


class Cri:
    """One runtime's socket. All methods raise OSError (TimeoutError among them) or ValueError."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._tags: dict[bytes, tuple[bytes, ...]] = {}

    def listing(self) -> list[Container]:
        """Return all containers of pods, and the pods' own."""
        self._tags.clear()
        pods = [_pod(one) for one in fields(self._ask("ListPodSandbox"), 1)]
        return [found for found in (*pods, *self._inside()) if found is not None]

    def _inside(self, wanted: bytes = b"") -> Iterator[Container | None]:
        """Yield the containers of pods that a filter leaves: id 1, image 4, image_ref 5, labels 8."""
        for one in fields(self._ask("ListContainers", wanted), 1):
            names = (field(one, 4, 1), field(one, 4, 18), *self._tagged(field(one, 5)))
            told = grpc.pairs(one, 8)
            parts = tuple(told.get(label, b"") for label in (_NAMESPACE, _POD, _NAME))
            yield _named(field(one, 1), parts, names)

    def _tagged(self, image: bytes) -> tuple[bytes, ...]:
        """Return all names of an image: repo_tags 2, repo_digests 3; a container is made by any of them."""
        if image and image not in self._tags:
            asked = grpc.string(1, grpc.string(1, image))
            found = field(self._ask("ImageStatus", asked, _IMAGES), 1)
            self._tags[image] = (*fields(found, 2), *fields(found, 3))
        return self._tags.get(image, ())

    def about(self, identifier: str) -> Container | None:
        """Return a container by its id; None: it is of no pod."""
        only = grpc.string(1, grpc.string(1, identifier))  # ContainerFilter.id
        if (found := next(self._inside(only), None)) is not None:
            return found
        status = field(self._ask("PodSandboxStatus", grpc.string(1, identifier)), 1)
        return _pod(status) if status else None

    def changes(self, quiet_s: float) -> Iterator[tuple[str, Container | None]]:
        """Yield an id and what it is now (None: removed), as they change; first ("", None): it listens.

        Ends with TimeoutError where nothing has come for `quiet_s`.
        """
        yield "", None
        for ids in (self._events(quiet_s), self._subscribed(quiet_s), self._polled(quiet_s)):
            for identifier, gone in ids:
                if len(identifier) == _ID_LEN:
                    yield identifier, None if gone else self._told(identifier)
        raise TimeoutError("looked long enough: listed anew")

    def _events(self, quiet_s: float) -> Iterator[tuple[str, bool]]:
        """Ask for CRI's own events; ends at once where the runtime has none."""
        asked = grpc.call(
            self._path, f"{_SERVICE}GetContainerEvents", timeout_s=self._timeout_s, quiet_s=quiet_s
        )
        for event in asked:
            kind = grpc.number(event, 2)
            yield _ascii(field(event, 1)), kind == 3  # noqa: PLR2004 - CONTAINER_DELETED_EVENT

    def _subscribed(self, quiet_s: float) -> Iterator[tuple[str, bool]]:
        """Ask for containerd's events; ends at once where the runtime is another."""
        namespace = {"containerd-namespace": _KUBERNETES}
        asked = grpc.call(
            self._path, _SUBSCRIBE, timeout_s=self._timeout_s, quiet_s=quiet_s, metadata=namespace
        )
        for event in asked:
            topic = field(event, 3)
            if topic in (_CREATED, _DELETED) and field(event, 2) == _KUBERNETES.encode():
                yield _ascii(field(event, 4, 2, 1)), topic == _DELETED

    def _polled(self, quiet_s: float) -> Iterator[tuple[str, bool]]:
        """Look again and again, for a while."""
        known = {one.id for one in self.listing()}
        until = time.monotonic() + quiet_s
        while time.monotonic() < until:
            time.sleep(_POLL_S)
            now = {one.id for one in self.listing()}
            yield from ((one, False) for one in now - known)
            yield from ((one, True) for one in known - now)
            known = now

    def _told(self, identifier: str) -> Container | None:
        until = time.monotonic() + _UNTOLD_S
        while (found := self.about(identifier)) is None and time.monotonic() < until:
            time.sleep(0.01)
        return found

    def _ask(self, method: str, message: bytes = b"", service: str = _SERVICE) -> bytes:
        answer = grpc.call(self._path, f"{service}{method}", message, timeout_s=self._timeout_s)
        return next(answer, b"")


def _pod(message: bytes) -> Container | None:
    """Read a PodSandbox or a PodSandboxStatus: id 1, metadata 2 (name 1, namespace 3)."""
    parts = (field(message, 2, 3), field(message, 2, 1), SANDBOX.encode())
    return _named(field(message, 1), parts, ())


def _named(identifier: bytes, parts: tuple[bytes, ...], images: tuple[bytes, ...]) -> Container | None:
    if not all(parts) or len(identifier) != _ID_LEN:
        return None
    names = (escape(plain_image(one.decode("utf-8", "replace")), 256) for one in images if one)
    return Container(_ascii(identifier), escape(b"/".join(parts), 256), tuple(dict.fromkeys(names)))


def _ascii(raw: bytes) -> str:
    return raw.decode("ascii", "replace")
