"""Pods and containers get their names from the node's runtime, as a real gRPC server tells them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.pods import labels
from tracer.containers.cri import Cri
from tracer.containers.grpc import _Frames, _messages, field, fields, number, string
from tracer.model.containers import Container

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID, POD = "ab" * 32, "cd" * 32
CHAT = Container(ID, "default/ollama-0/chat", ("docker.io/ollama/ollama", "registry.example/mine"))
SANDBOX = Container(POD, "default/ollama-0/POD")


def listed(**told: str) -> bytes:
    """Return a Container of a pod, with fields that are of no interest."""
    names = {f"io.kubernetes.{key.replace('_', '.')}": value for key, value in told.items()}
    image = string(4, string(1, "docker.io/ollama/ollama:latest"))
    return string(1, ID) + string(2, POD) + image + string(5, "sha256:1") + b"\x30\x01" + labels(8, names)


class Runtime(grpc.GenericRpcHandler):
    """Answers as containerd and CRI-O do, for one pod with one container; `events` are what it streams."""

    def __init__(self) -> None:
        self.container = listed(pod_namespace="default", pod_name="ollama-0", container_name="chat")
        self.events: dict[str, list[bytes]] = {}
        self.asked: list[str] = []

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the method that is called."""
        name = call.method.rpartition("/")[2]
        self.asked.append(name)
        if name in self.events:
            return grpc.unary_stream_rpc_method_handler(lambda *_: iter(self.events[name]))
        answer = getattr(self, name, None)
        return grpc.unary_unary_rpc_method_handler(answer) if answer else None

    def ListContainers(self, request: bytes, _: grpc.ServicerContext) -> bytes:  # noqa: N802 - the method's name
        """Return the container, unless another one is asked for."""
        wanted = field(request, 1, 1)
        return string(1, self.container) if wanted in (b"", ID.encode()) else b""

    def ListPodSandbox(self, *_: object) -> bytes:  # noqa: N802 - the method's name
        """Return the pod."""
        return string(1, string(1, POD) + string(2, string(1, "ollama-0") + string(3, "default")))

    def PodSandboxStatus(self, request: bytes, context: grpc.ServicerContext) -> bytes:  # noqa: N802 - the method's name
        """Return the pod, or that there is none."""
        if field(request, 1) != POD.encode():
            context.abort(grpc.StatusCode.NOT_FOUND, "no such pod")
        return self.ListPodSandbox()

    def ImageStatus(self, *_: object) -> bytes:  # noqa: N802 - the method's name
        """Return what else the image is called."""
        return string(1, string(1, "sha256:1") + string(2, "registry.example/mine:7"))


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[tuple[str, Runtime]]:
    """Serve on a unix socket; give its path and what answers."""
    told = Runtime()
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((told,))
    path = str(tmp_path / "cri.sock")
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield path, told
    server.stop(0).wait()


def test_a_pod_has_three_names(runtime: tuple[str, Runtime]) -> None:
    """Namespace, pod and container, in the order of kubectl; its image under all its names."""
    path, told = runtime
    api = Cri(path, 5)
    assert api.listing() == [SANDBOX, CHAT]
    assert [api.about(ID), api.about(POD), api.about("f" * 64)] == [CHAT, SANDBOX, None]
    told.container = listed()
    assert api.about(ID) is None


def test_strangers_name_pods(runtime: tuple[str, Runtime]) -> None:
    """What could move a cursor is escaped."""
    path, told = runtime
    told.container = listed(pod_namespace="a", pod_name="b\x1b[2J", container_name="c")
    found = Cri(path, 5).about(ID)
    assert found
    assert found.name == "a/b\\x1b[2J/c"


@pytest.mark.parametrize(
    ("method", "event"),
    [
        ("GetContainerEvents", lambda kind: string(1, ID) + bytes([2 << 3, 3 * kind])),
        (
            "Subscribe",
            lambda kind: (
                string(2, "k8s.io")
                + string(3, "/containers/delete" if kind else "/containers/create")
                + string(4, string(1, "type") + string(2, string(1, ID)))
            ),
        ),
    ],
)
def test_changes_are_told(runtime: tuple[str, Runtime], method: str, event: object) -> None:
    """By CRI's own events, and by containerd's where it has none: made, with its names, and removed."""
    path, told = runtime
    told.events[method] = [event(0), event(1)]  # type: ignore[operator]
    assert list(islice(Cri(path, 5).changes(5), 3)) == [("", None), (ID, CHAT), (ID, None)]


def test_a_runtime_without_events_is_looked_at_again(runtime: tuple[str, Runtime]) -> None:
    """Until it is time to list all anew."""
    path, told = runtime
    changes = Cri(path, 5).changes(2)
    before, told.container = told.container, listed()
    assert next(changes) == ("", None)
    threading.Timer(0.7, lambda: setattr(told, "container", before)).start()
    assert next(changes) == (ID, CHAT)
    with pytest.raises(TimeoutError):
        list(changes)


def test_a_runtime_that_hangs_is_waited_for_so_long(tmp_path: Path) -> None:
    """It takes the call and says nothing, or a byte now and then."""
    path = str(tmp_path / "cri.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(4)
        with pytest.raises(TimeoutError):
            Cri(path, 0.2).about(ID)

        def drip() -> None:
            client, _ = listening.accept()
            client, _ = listening.accept()
            with client:
                for _ in range(40):
                    with contextlib.suppress(OSError):
                        client.send(b"\0")
                    time.sleep(0.02)

        dripping = threading.Thread(target=drip)
        dripping.start()
        with pytest.raises((TimeoutError, ValueError)):
            Cri(path, 0.2).about(ID)
        dripping.join()


@given(some.binary(max_size=200))
def test_no_answer_harms(answer: bytes) -> None:
    """Any bytes are a name, no name, or an error of the expected kind, whatever says them."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        feed = threading.Thread(target=lambda: (theirs.sendall(answer), theirs.shutdown(socket.SHUT_WR)))
        feed.start()
        with pytest.raises(ValueError, match=r"cut|long|hung up"):
            list(_messages(_Frames(ours, None)))
        feed.join()
    for read in (lambda: list(fields(answer, 1)), lambda: number(answer, 2)):
        try:
            read()
        except ValueError:
            continue
