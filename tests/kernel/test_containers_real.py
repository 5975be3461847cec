"""Containers of real engines are targets by name, image and pattern, however often they are made again."""

from __future__ import annotations

import errno
import json
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.daemon import Tattle, run, until
from tests.support.named_world import ALLOWED, resolver
from tests.support.named_world import OTHER as STRANGE
from tests.support.network import PEER4
from tests.support.real_engines import IMAGE, OTHER, Containerd, Dockerd, Podman

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab

__all__ = ["resolver"]  # a fixture

ROUNDS = int(os.environ.get("TATTLE_TEST_RECREATIONS", "5"))
KNOCKING_MS = "250"
NAME, PATTERN, OF_IMAGE, BYSTANDER = "tattle-name", "tattle-many-7", "tattle-by-image", "tattle-bystander"
SELECTORS = (f"container:{NAME}", "container:tattle-many-*", "localai")
ROLES = ((NAME, OTHER), (PATTERN, OTHER), (OF_IMAGE, IMAGE), (BYSTANDER, OTHER))
BLOCKED = (NAME, PATTERN, OF_IMAGE)


class Ports(NamedTuple):
    """A port of the receiver for each role, so that packets tell whose they are."""

    lab: Lab
    by_role: dict[str, int]

    @classmethod
    def fresh(cls, lab: Lab) -> Ports:
        """Take ports at which nothing has arrived yet."""
        return cls(lab, {role: lab.port() for role, _ in ROLES})

    def words(self, role: str) -> tuple[str, str, str]:
        """Return what a role's program is told."""
        return PEER4, str(self.by_role[role]), KNOCKING_MS

    def arrived(self, role: str) -> int:
        """Count the packets of a role that have arrived."""
        port = self.by_role[role]
        return sum(self.lab.wire(proto, PEER4, port).packets_out for proto in ("tcp", "udp"))

    def assert_silent(self) -> None:
        """Nothing of the blocked has arrived."""
        assert {role: self.arrived(role) for role in BLOCKED} == dict.fromkeys(BLOCKED, 0)


def command(tattle: Tattle, *words: str) -> str:
    """Run a tattle command, which must succeed."""
    done = run(*words, *tattle.own)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def blocked(scratch: Path) -> Iterator[Tattle]:
    """A daemon with all selectors blocked, before any container is there."""
    tattle = Tattle(scratch)
    try:
        tattle.start()
        for selector in SELECTORS:
            command(tattle, "block", selector)
        yield tattle
        assert tattle.stop() == 0
    finally:
        tattle.remove()


@pytest.fixture(scope="module")
def docker(lab: Lab) -> Iterator[Dockerd]:
    """A real dockerd."""
    with Dockerd(lab) as made:
        yield made


@pytest.fixture(scope="module")
def podman(lab: Lab) -> Iterator[Podman]:
    """A real Podman, without a service."""
    with Podman(lab) as made:
        yield made


@pytest.fixture(scope="module")
def containerd(lab: Lab) -> Iterator[Containerd]:
    """A real containerd with its CRI plugin."""
    with Containerd(lab) as made:
        yield made


def remake(docker: Dockerd, ports: Ports) -> None:
    """Remove all containers, make them again, and let them knock to their end."""
    made = [docker.run(role, image, *ports.words(role)) for role, image in ROLES]
    assert [docker.wait(one) for one in made] == [0] * len(ROLES), "not all of them have run"


def pass_by(docker: Dockerd, ports: Ports) -> None:
    """Make the bystander again; it knocks until something of it has arrived."""
    before = ports.arrived(BYSTANDER)
    made = docker.run(BYSTANDER, OTHER, *ports.words(BYSTANDER)[:2], "60000")
    until(lambda: [] if ports.arrived(BYSTANDER) > before else ["the bystander is held"])
    docker.remove(made)


def status(tattle: Tattle, selector: str) -> dict[str, object]:
    """Return what `status` says of a target."""
    found: dict[str, object] = next(
        one for one in tattle.ask("status")["targets"] if one["target"] == selector
    )
    return found


def test_made_again_with_a_daemon(lab: Lab, docker: Dockerd, blocked: Tattle) -> None:
    """A new id and a new cgroup each time: nothing of the blocked leaves; what is not named does."""
    ports = Ports.fresh(lab)
    for _ in range(ROUNDS):
        remake(docker, ports)
        pass_by(docker, ports)
    ports.assert_silent()
    for selector in SELECTORS:
        command(blocked, "status", "--enforced", selector)
        assert status(blocked, selector)["active"]


def test_made_again_without_the_daemon(lab: Lab, docker: Dockerd, blocked: Tattle) -> None:
    """The daemon is killed: containers that no one can name are held, and decided when it is back."""
    ports = Ports.fresh(lab)
    blocked.kill()
    for _ in range(ROUNDS):
        remake(docker, ports)
    ports.assert_silent()
    assert ports.arrived(BYSTANDER) == 0
    late = docker.run(BYSTANDER, OTHER, PEER4, str(ports.by_role[BYSTANDER]), "60000")
    name = docker.run(NAME, OTHER, PEER4, str(ports.by_role[NAME]), "60000")
    assert ports.arrived(BYSTANDER) == 0
    blocked.start()
    until(lambda: [] if ports.arrived(BYSTANDER) else ["the bystander is held"])
    ports.assert_silent()
    for one in (late, name):
        docker.remove(one)


def podmans(podman: Podman, ports: Ports) -> None:
    """Replace all containers by new ones, and let them knock to their end."""
    for role, image in ROLES:
        podman.run(role, image, *ports.words(role)[:2], "1500" if role == BYSTANDER else KNOCKING_MS)
    for role, _ in ROLES:
        podman.wait(role)


def test_podman_without_a_service(lab: Lab, podman: Podman, blocked: Tattle) -> None:
    """Its state on disk tells the names; in a pod, too, and with the daemon killed they are held."""
    ports = Ports.fresh(lab)
    for _ in range(ROUNDS):
        before = ports.arrived(BYSTANDER)
        podmans(podman, ports)
        assert ports.arrived(BYSTANDER) > before
    ports.assert_silent()
    blocked.kill()
    before = ports.arrived(BYSTANDER)
    for _ in range(3):
        podmans(podman, ports)
    ports.assert_silent()
    assert ports.arrived(BYSTANDER) == before


def test_blocked_without_a_daemon(lab: Lab, docker: Dockerd, tattle: Tattle) -> None:
    """There is none, and no container either: what appears is held, and the command says so."""
    ports = Ports.fresh(lab)
    for selector in SELECTORS:
        said = command(tattle, "block", selector)
        assert "held" in said
    command(tattle, "status", "--enforced", SELECTORS[0])
    for _ in range(3):
        remake(docker, ports)
    ports.assert_silent()
    assert ports.arrived(BYSTANDER) == 0
    for selector in SELECTORS:
        command(tattle, "unblock", selector)
    remake(docker, ports)
    assert [role for role, _ in ROLES if not ports.arrived(role)] == []


def test_an_engine_that_hangs_keeps_nothing_from_being_blocked(
    lab: Lab, docker: Dockerd, blocked: Tattle
) -> None:
    """It answers nothing: it is told and counted; `status` answers all the same; then all is as before."""
    ports = Ports.fresh(lab)
    docker.hang()
    try:
        found = status(blocked, SELECTORS[0])
        assert found["active"], found
    finally:
        docker.wake()
    remake(docker, ports)
    ports.assert_silent()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_is_restarted_is_followed_again(
    lab: Lab, docker: Dockerd, blocked: Tattle, how: signal.Signals
) -> None:
    """Stopped or killed, and started anew: what it makes then is told by name as before, none is let pass."""
    ports = Ports.fresh(lab)
    remake(docker, ports)
    docker.stop(how)
    docker.start()
    for _ in range(max(2, ROUNDS // 5)):
        remake(docker, ports)
        pass_by(docker, ports)
    ports.assert_silent()
    assert {status(blocked, selector)["active"] for selector in SELECTORS} == {True}


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_a_container_asks_its_own_resolver_however_often_it_is_made_again(
    lab: Lab,
    kind: str,
    request: pytest.FixtureRequest,
    resolver: None,  # noqa: ARG001 - it only has to run
    tattle: Tattle,
) -> None:
    """Blocked before there is any, it finds the names that are allowed at once, each time.

    Its first look-up may come before its file was found, on a host that is busy: it asks again then.
    """
    engine: Dockerd | Podman = request.getfixturevalue(kind)
    port = lab.peer.serve()
    tattle.start()
    command(tattle, "block", f"container:{NAME}", "--allow", ALLOWED)
    said = [json.loads(engine.resolve(NAME, PEER4, ALLOWED, str(port), "30")) for _ in range(ROUNDS)]
    assert [one["error"] for one in said] == [""] * ROUNDS
    assert all(one["addresses"] for one in said)
    assert not [one for one in said if errno.EPERM in one["addresses"].values()]
    refused = json.loads(engine.resolve(NAME, PEER4, STRANGE, str(port)))
    assert refused["error"]
    assert not refused["addresses"]
    assert tattle.stop() == 0


def test_pods_of_a_node(lab: Lab, containerd: Containerd, scratch: Path) -> None:
    """By namespace, pod and container, all pods of a deployment by a pattern; another namespace is free."""
    tattle = Tattle(scratch)
    ports = Ports.fresh(lab)
    try:
        tattle.start()
        command(tattle, "block", "container:ai/ollama-*/*")
        kubelet = containerd.kubelet
        pods = {NAME: containerd.pod("ai", "ollama-7c9"), BYSTANDER: containerd.pod("web", "ollama-7c9")}

        def remade() -> None:
            made = [
                kubelet.run(sandbox, pod, "chat", f"docker.io/{OTHER}", *ports.words(role))
                for role, (pod, sandbox) in pods.items()
            ]
            until(lambda: [] if not any(map(_runs, made)) else ["they run"])
            for one in made:
                kubelet.remove(one)

        for _ in range(ROUNDS):
            before = ports.arrived(BYSTANDER)
            remade()
            assert ports.arrived(BYSTANDER) > before
        assert ports.arrived(NAME) == 0
        tattle.kill()
        before = ports.arrived(BYSTANDER)
        remade()
        assert (ports.arrived(NAME), ports.arrived(BYSTANDER)) == (0, before)
    finally:
        tattle.remove()


def _runs(identifier: str) -> bool:
    """Tell whether a container's cgroup is there."""
    from tests.support.network import cgroup2_root  # noqa: PLC0415

    return any(True for _ in cgroup2_root().glob(f"kubepods/*/{identifier}"))
