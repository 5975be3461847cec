"""A kubelet's part towards a node's container runtime: pods and containers by CRI, field by field.

Sources: runtime.v1 (api.proto of kubernetes/cri-api); the labels are those that kubelet gives.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # else what tests start ends with it
import grpc

from tracer.containers.grpc import field as read
from tracer.containers.grpc import string as field

if TYPE_CHECKING:
    from pathlib import Path

_HOST_NETWORK = 2  # NamespaceMode.NODE
_PATIENCE = 60.0


def varint(number: int, value: int) -> bytes:
    """Return a field that holds a small number."""
    return bytes([number << 3, value])


def labels(number: int, told: dict[str, str]) -> bytes:
    """Return a map of strings."""
    return b"".join(field(number, field(1, key) + field(2, value)) for key, value in told.items())


class Pod(NamedTuple):
    """A pod as its specification names it."""

    namespace: str
    name: str
    uid: str


class Kubelet:
    """Speaks CRI on a runtime's socket."""

    def __init__(self, socket: Path, logs: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._logs = str(logs)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def ask(self, method: str, message: bytes) -> bytes:
        """Call a method of the runtime service, and return its answer."""
        call = self._channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
        answer: bytes = call(message, timeout=_PATIENCE, wait_for_ready=True)
        return answer

    def _sandbox(self, pod: Pod) -> bytes:
        metadata = field(1, pod.name) + field(2, pod.uid) + field(3, pod.namespace)
        told = {"io.kubernetes.pod.name": pod.name, "io.kubernetes.pod.namespace": pod.namespace}
        options = field(1, varint(1, _HOST_NETWORK))  # LinuxSandboxSecurityContext.namespace_options
        linux = field(1, f"/kubepods/pod{pod.uid}") + field(2, options)
        return field(1, metadata) + field(3, self._logs) + labels(6, told) + field(8, linux)

    def run_pod(self, pod: Pod) -> str:
        """Make a pod in the runtime's own network namespace; returns its id."""
        return read(self.ask("RunPodSandbox", field(1, self._sandbox(pod))), 1).decode()

    def run(self, sandbox: str, pod: Pod, name: str, image: str, *args: str) -> str:
        """Make a container of a pod and start it; returns its id."""
        identifier = self.create(sandbox, pod, name, image, *args)
        self.start(identifier)
        return identifier

    def create(self, sandbox: str, pod: Pod, name: str, image: str, *args: str) -> str:
        """Make a container of a pod; returns its id."""
        told = {
            "io.kubernetes.container.name": name,
            "io.kubernetes.pod.name": pod.name,
            "io.kubernetes.pod.namespace": pod.namespace,
            "io.kubernetes.pod.uid": pod.uid,
        }
        settings = (
            field(1, field(1, name))
            + field(2, field(1, image))
            + b"".join(field(4, one) for one in args)
            + labels(9, told)
            + field(11, f"{name}.log")
        )
        wanted = field(1, sandbox) + field(2, settings) + field(3, self._sandbox(pod))
        return read(self.ask("CreateContainer", wanted), 1).decode()

    def start(self, identifier: str) -> None:
        """Start a container."""
        self.ask("StartContainer", field(1, identifier))

    def remove(self, identifier: str) -> None:
        """Stop a container at once, and remove it."""
        self.ask("StopContainer", field(1, identifier))
        for _ in range(100):
            with contextlib.suppress(grpc.RpcError):  # it is told to be running for a moment longer
                self.ask("RemoveContainer", field(1, identifier))
                return
            time.sleep(0.05)
        raise AssertionError(f"{identifier} cannot be removed")

    def remove_pod(self, sandbox: str) -> None:
        """Stop and remove a pod."""
        self.ask("StopPodSandbox", field(1, sandbox))
        self.ask("RemovePodSandbox", field(1, sandbox))
