"""Pods and containers get their names from the node's runtime, as a real gRPC server tells them."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tracer.host import cri
from tracer.host.containers import ContainerEngines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID = "ab" * 32
METHOD = "/runtime.v1.RuntimeService/ContainerStatus"


def field(number: int, data: bytes) -> bytes:
    """Give a length-delimited field, as protobuf writes it."""
    length, size = len(data), b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def status(**labels: str) -> bytes:
    """Give a ContainerStatusResponse with a container's names, and with fields that are of no interest."""
    pairs = {f"io.kubernetes.{key.replace('_', '.')}": value for key, value in labels.items()}
    entries = b"".join(
        field(12, field(1, key.encode()) + field(2, value.encode())) for key, value in pairs.items()
    )
    boring = (
        field(1, ID.encode())
        + field(2, field(1, b"chat"))
        + b"\x18\x01"
        + field(8, field(1, b"docker.io/ollama/ollama:latest"))
        + field(13, b"\x0a\x00")
    )
    return field(1, boring + entries + field(15, b"x" * 300))


class Runtime(grpc.GenericRpcHandler):
    """Answers ContainerStatus for one container, as containerd and CRI-O do."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Give the one method."""
        return grpc.unary_unary_rpc_method_handler(self.tell) if call.method == METHOD else None

    def tell(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Tell of the container, or that there is none."""
        self.asked.append(request)
        if ID.encode() not in request:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such container")
        return self.answer


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[tuple[str, Runtime]]:
    """Serve on a unix socket; give its path and what answers."""
    told = Runtime(status(pod_namespace="default", pod_name="ollama-0", container_name="chat"))
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((told,))
    path = str(tmp_path / "cri.sock")
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield path, told
    server.stop(0).wait()


def test_a_pod_has_three_names(runtime: tuple[str, Runtime]) -> None:
    """Namespace, pod and container, in the order of kubectl; who is no pod's has none."""
    path, told = runtime
    assert cri.about(path, ID, 5) == ("default/ollama-0/chat", "docker.io/ollama/ollama:latest")
    assert told.asked == [field(1, ID.encode())]
    assert cri.about(path, "f" * 64, 5) is None
    told.answer = status()
    assert cri.about(path, ID, 5) is None


def test_strangers_name_pods(runtime: tuple[str, Runtime]) -> None:
    """What could move a cursor is escaped."""
    path, told = runtime
    told.answer = status(pod_namespace="a", pod_name="b\x1b[2J", container_name="c")
    assert cri.about(path, ID, 5) == ("a/b\\x1b[2J/c", "docker.io/ollama/ollama:latest")


def test_engines_ask_the_runtime_too(runtime: tuple[str, Runtime]) -> None:
    """Once per container; absence is remembered as well."""
    path, told = runtime
    engines = ContainerEngines((), ("/nowhere/cri.sock", path))
    assert [engines.name_of(ID), engines.name_of(ID)] == ["default/ollama-0/chat"] * 2
    assert [engines.name_of("f" * 64), engines.name_of("f" * 64)] == [None, None]
    assert engines.image_of(ID) == "docker.io/ollama/ollama"
    assert len(told.asked) == 2


def test_a_runtime_that_hangs_is_left_alone(tmp_path: Path) -> None:
    """It takes the call and says nothing: one short wait, then none for a while."""
    path = str(tmp_path / "cri.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(4)
        engines = ContainerEngines((), (path,))
        assert engines.name_of(ID) is None
        assert engines.name_of("f" * 64) is None
        listening.accept()[0].close()
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()


@given(some.binary(max_size=200))
def test_no_answer_harms(answer: bytes) -> None:
    """Any bytes are a name, no name, or an error of the expected kind, whatever says them."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        feed = threading.Thread(target=lambda: (theirs.sendall(answer), theirs.shutdown(socket.SHUT_WR)))
        feed.start()
        with pytest.raises(ValueError, match=r"cut|long|hung up"):
            cri._answer(ours)
        feed.join()
    try:
        assert cri._read(answer) is None
    except ValueError:
        return
