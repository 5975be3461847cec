"""Cgroup paths of real hosts name containers; selectors name them as people do."""

from __future__ import annotations

import pytest

from tracer.model.containers import Container, ContainerPattern, Family, places, plain_image

ID, OUTER = "ab" * 32, "cd" * 32
UID = "8f9e8d7c-0000-1111-2222-333344445555"
STATIC = "b9d2" * 8
"""Of a static pod: the MD5 of its file, without dashes (kubelet config/common.go, applyDefaults)."""
ROOTLESS = "/user.slice/user-1000.slice/user@1000.service/user.slice"
NODE = f"/system.slice/docker-{OUTER}.scope/kubelet.slice/kubelet-kubepods.slice"
IN_KIND = (
    f"{NODE}/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{UID.replace('-', '_')}.slice"
    f"/cri-containerd-{ID}.scope"
)


@pytest.mark.parametrize(
    ("path", "family", "identifier", "owner"),
    [
        (f"/system.slice/docker-{ID}.scope", Family.DOCKER, ID, 0),
        (f"/docker/{ID}", Family.DOCKER, ID, 0),
        (f"/docker/{ID}/init", Family.DOCKER, ID, 0),
        (f"{ROOTLESS}/docker-{ID}.scope", Family.DOCKER, ID, 1000),
        (f"/machine.slice/libpod-{ID}.scope/container", Family.PODMAN, ID, 0),
        (f"/machine.slice/machine-libpod_pod_{OUTER}.slice/libpod-{ID}.scope", Family.PODMAN, ID, 0),
        (f"/libpod_parent/libpod-{ID}", Family.PODMAN, ID, 0),
        (f"/libpod_parent/{OUTER}/libpod-{ID}", Family.PODMAN, ID, 0),
        (f"{ROOTLESS}/libpod-{ID}.scope/container", Family.PODMAN, ID, 1000),
        (f"{ROOTLESS}/user-libpod_pod_{OUTER}.slice/libpod-{ID}.scope", Family.PODMAN, ID, 1000),
        (f"/system.slice/ollama.service/libpod-payload-{ID}", Family.PODMAN, ID, 0),
        (f"{ROOTLESS}/app.slice/llm.service/libpod-payload-{ID}/container", Family.PODMAN, ID, 1000),
        (f"/kubepods.slice/kubepods-pod{UID}.slice/cri-containerd-{ID}.scope", Family.CRI, ID, 0),
        (f"/kubepods/burstable/pod{UID}/{ID}", Family.CRI, ID, 0),
        (f"/kubepods.slice/kubepods-pod{UID}.slice/crio-{ID}.scope/container", Family.CRI, ID, 0),
        (f"/kubepods/besteffort/pod{UID}/crio-{ID}", Family.CRI, ID, 0),
        (f"/kubepods/burstable/pod{STATIC}/{ID}", Family.CRI, ID, 0),
        (f"/system.slice/containerd.service/kubepods-pod{UID}.slice:cri-containerd:{ID}", Family.CRI, ID, 0),
        (IN_KIND, Family.CRI, ID, 0),
        (f"/docker/{OUTER}/kubepods/burstable/pod{UID}/{ID}", Family.CRI, ID, 0),
        (f"…{IN_KIND[-200:]}", Family.CRI, ID, 0),
        (f"/ai/{ID}", Family.ANY, ID, 0),
        (f"/system.slice/nerdctl-{ID}.scope", Family.ANY, ID, 0),
        ("/lxc.payload.web/init.scope", Family.MACHINE, "web", 0),
        ("/lxc/web", Family.MACHINE, "web", 0),
        ("/machine.slice/machine-my\\x2dbox.scope/payload", Family.MACHINE, "my-box", 0),
        ("/machine.slice/systemd-nspawn@web.service/payload", Family.MACHINE, "web", 0),
    ],
)
def test_a_path_names_its_innermost_container(path: str, family: Family, identifier: str, owner: int) -> None:
    """Of every engine, both cgroup drivers, root and users; also where its head was cut off."""
    found = next(places(path))
    assert (found.family, found.id, found.owner) == (family, identifier, owner)
    assert path.startswith(found.path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/system.slice/docker.service",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods.slice/crio-conmon-{ID}.scope",
        f"/libpod_parent/{ID}",
        f"/machine.slice/machine-libpod_pod_{ID}.slice",
        "/lxc.monitor.web",
        f"/kubepods/besteffort/pod{UID}",
        f"/docker/{ID[:-1]}",
    ],
)
def test_supervisors_and_pods_are_no_containers(path: str) -> None:
    """What watches over a container, or holds several, is none."""
    assert not list(places(path))


def test_nested_containers_come_from_the_end() -> None:
    """327 bytes in kind: the inner one first, then the node that it runs in, each with its own cgroup."""
    assert len(IN_KIND) > 255
    assert [(one.id, one.path) for one in places(IN_KIND)] == [
        (ID, IN_KIND),
        (OUTER, f"/system.slice/docker-{OUTER}.scope"),
    ]


CHAT = Container(ID, "ai/ollama-7c9/chat", ("docker.io/ollama/ollama",), ("k8s_chat_1",))
COMPOSED = Container(OUTER, "shop-llm-1", (), ("shop/llm",))


@pytest.mark.parametrize(
    ("text", "container", "is_meant"),
    [
        ("shop-llm-1", COMPOSED, True),
        ("shop-llm", COMPOSED, False),
        ("shop-*", COMPOSED, True),
        ("*", COMPOSED, True),
        ("shop/llm", COMPOSED, True),
        ("shop/*", COMPOSED, True),
        ("*/llm", COMPOSED, True),
        ("Shop/llm", COMPOSED, False),
        ("ai/ollama-7c9/chat", CHAT, True),
        ("ai/ollama-*/*", CHAT, True),
        ("ai/*/chat", CHAT, True),
        ("*/*/*", CHAT, True),
        ("ai/*", CHAT, False),
        ("*", CHAT, True),
        ("ai/ollama-7*/init", CHAT, False),
        (ID[:12], CHAT, True),
        (ID, CHAT, True),
        (ID[:11], CHAT, False),
        (OUTER[:12], CHAT, False),
    ],
)
def test_a_pattern_means_whom_it_names(text: str, container: Container, is_meant: bool) -> None:  # noqa: FBT001 - a table
    """By name, project and service, namespace, pod and container, or id; `*` never passes a slash."""
    pattern = ContainerPattern.parse(text)
    assert pattern
    assert pattern.matches(container) == is_meant


@pytest.mark.parametrize("text", ["", "/", "a/", "/a", "a/b/c/d", "a b", "a\n", "../x", "a?", "[a]", "-a"])
def test_what_no_engine_calls_a_container_is_no_pattern(text: str) -> None:
    """It is refused when it is given, not when nothing is found."""
    assert ContainerPattern.parse(text) is None


def test_an_image_goes_by_its_name() -> None:
    """Without tag and digest; the port of a registry is no tag."""
    assert plain_image("localhost:5000/ollama/ollama:1.2") == "localhost:5000/ollama/ollama"
    assert plain_image("ollama/ollama@sha256:00") == "ollama/ollama"
