"""Container engines are followed: names are known when containers are made, whatever the engines do."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.container_engine import ContainerEngine
from tracer.containers import sources
from tracer.containers.engines import ContainerEngines, Undecided
from tracer.containers.sources import Sources
from tracer.host.faults import Faults
from tracer.model.containers import Container, places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ID, OTHER = "ab" * 32, "cd" * 32
AT = next(places(f"/docker/{ID}"))
PATIENCE_S = 20.0


def until(condition: Callable[[], object]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host without engines."""
    (tmp_path / "run").mkdir()
    (tmp_path / "proc").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
    return tmp_path


@pytest.fixture
def engine(root: Path) -> Iterator[ContainerEngine]:
    """A Docker engine, where Docker's is."""
    with ContainerEngine(root / "run/docker.sock") as made:
        yield made


@pytest.fixture
def engines(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContainerEngines]:
    """What follows the engines of that host."""
    monkeypatch.setattr(sources, "TIMEOUT_S", 0.3)
    faults = Faults()
    made = ContainerEngines(Sources(faults, root, root / "proc"), faults)
    yield made
    made.close()


def name(engines: ContainerEngines) -> str | None:
    """Return the name of the container ID, as far as it is known."""
    found = engines.at(AT)
    return found.name if found else None


def test_a_name_is_known_when_its_container_is_made(
    engine: ContainerEngine, engines: ContainerEngines
) -> None:
    """By the engine's event, before there is a cgroup; so are a new name, an image's names, its end."""
    changed = threading.Event()
    engines.start(changed.set)
    until(lambda: any(path.startswith("/events") for path in engine.asked))
    engine.images["sha256:1"] = ["ollama/ollama:latest"]
    compose = {"com__docker__compose__project": "shop", "com__docker__compose__service": "llm"}
    engine.create(ID, "oll", "d9189554", "sha256:1", **compose)
    until(lambda: engines.at(AT) == Container(ID, "oll", ("d9189554", "ollama/ollama"), ("shop/llm",)))
    assert changed.is_set()
    engine.containers[ID]["Name"] = "/new"
    engine.tell("rename", ID, name="new")
    until(lambda: name(engines) == "new")
    engine.remove(ID)
    until(lambda: not engines.all())
    assert name(engines) == "new"  # late flows still want it


@pytest.mark.parametrize("mood", ["hang", "garbage", "error", "hangup"])
def test_an_engine_that_fails_is_told_once_and_tried_again(
    engine: ContainerEngine, engines: ContainerEngines, mood: str
) -> None:
    """One line, counts, no answer remembered; what it would tell is undecided until it is well again."""
    engine.mood = mood
    engine.create(ID, "oll", "ollama/ollama")
    with capture_logs() as logged:
        engines.start(lambda: None)
        until(lambda: engines.faults.counts().get("docker", 0) >= 2)
        with pytest.raises(Undecided):
            engines.decide(AT)
    assert engines.mute() == [str(engine.path)]
    assert len([record for record in logged if record["what"] == str(engine.path)]) == 1
    engine.mood = "well"
    until(lambda: name(engines) == "oll")
    until(lambda: not engines.faults.now())


def test_an_engine_that_appears_late_or_restarts_is_followed(root: Path, engines: ContainerEngines) -> None:
    """What was made while it was not heard is known as soon as it is."""
    engines.start(lambda: None)
    until(lambda: engines._followers == {} and engines._found_at)
    late = ContainerEngine(root / "run/docker.sock")
    with late:
        late.create(ID, "oll", "ollama/ollama")
        until(lambda: name(engines) == "oll")
    late.create(OTHER, "two", "ollama/ollama")
    with late:
        until(lambda: len(engines.all()) == 2)


def test_a_candidate_is_decided_by_whom_it_may_be_of(
    engine: ContainerEngine, engines: ContainerEngines
) -> None:
    """A container that was just made is found by asking; what no engine of its kind knows stays undecided."""
    engines.start(lambda: None)
    until(lambda: engine.asked)
    engine.containers[ID] = {"Id": ID, "Name": "/quiet", "Config": {"Image": "x", "Labels": {}}, "Image": ""}
    found = engines.decide(AT)
    assert found
    assert found.name == "quiet"
    with pytest.raises(Undecided):
        engines.decide(next(places(f"/system.slice/docker-{OTHER}.scope")))
    assert engines.decide(next(places(f"/custom/{OTHER}"))) is None
    lxc = engines.decide(next(places("/lxc.payload.web/init.scope")))
    assert lxc
    assert lxc.name == "web"


def test_an_engine_that_may_not_be_looked_at_is_no_reason_to_end(
    root: Path, engines: ContainerEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dockerd with its own containerd leaves /run/containerd with mode 0600; the daemon has no CAP_DAC_*."""
    (root / "run/containerd").mkdir()
    real = os.stat

    def refused(path: object, *more: object, **options: object) -> os.stat_result:
        if str(path).startswith(str(root / "run/containerd/")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refused)
    engines.look()
    assert engines.faults.counts() == {"cri": 1}
    assert engines.faults.now() == [f"cri: {root}/run/containerd/containerd.sock: Permission denied"]
    with pytest.raises(Undecided):
        engines.decide(next(places(f"/kubepods/pod1/{ID}")))


def store(root: Path, identifier: str, container: str, image: str = "docker.io/ollama/ollama:latest") -> None:
    """Write a container into a storage, as containers/storage does: a new file in the place of the old."""
    folder = root / "overlay-containers"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "containers.json"
    known = json.loads(file.read_text()) if file.exists() else []
    told = json.dumps({"image-name": image, "name": container})
    known.append({"id": identifier, "names": [container], "image": "1", "metadata": told})
    (folder / ".tmp-containers.json").write_text(json.dumps(known))
    (folder / ".tmp-containers.json").rename(file)


def test_podman_is_known_without_a_service(root: Path, engines: ContainerEngines) -> None:
    """By its own state: root's for all, a user's for that user's containers only."""
    store(root / "var/lib/containers/storage", ID, "pol")
    store(root / "home/ann/.local/share/containers/storage", OTHER, "rootless")
    store(root / "home/ann/.local/share/containers/storage", ID, "liar")
    engines.start(lambda: None)
    until(lambda: len(engines.all()) == 3)
    place = f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{OTHER}.scope/container"
    rootless = engines.of(place)
    assert rootless
    assert rootless.name == "rootless"
    assert engines.of(place.replace("1000", "1001")) is None
    found = engines.of(f"/machine.slice/libpod-{ID}.scope")
    assert found == Container(ID, "pol", ("docker.io/ollama/ollama",))
    store(root / "var/lib/containers/storage", "ef" * 32, "more")
    until(lambda: engines.of(f"/libpod_parent/libpod-{'ef' * 32}"))


@pytest.mark.parametrize("text", ["[1", "{}", "[[1]]", '[{"id": 7}]', "[" * 5000, "\xff"])
def test_spoiled_state_is_no_end(root: Path, engines: ContainerEngines, text: str) -> None:
    """What cannot be read is told; what stands beside it counts."""
    store(root / "var/lib/containers/storage", ID, "pol")
    folder = root / "home/ann/.local/share/containers/storage/vfs-containers"
    folder.mkdir(parents=True)
    (folder / "containers.json").write_text(text, encoding="latin-1")
    engines.look()
    assert [one.name for one in engines.all()] == ["pol"]


def test_engines_are_found_by_their_processes(root: Path) -> None:
    """Podman's state by conmon, sockets by dockerd and by shims; what was told once stays known."""
    store(root / "odd", ID, "x")

    def process(pid: int, comm: str, *words: str) -> None:
        folder = root / f"proc/{pid}"
        folder.mkdir()
        (folder / "comm").write_text(f"{comm}\n")
        (folder / "cmdline").write_text("\0".join((comm, *words, "")))

    process(1, "conmon", "-c", ID, "-b", f"{root}/odd/overlay-containers/{ID}/userdata")
    process(2, "dockerd", "-H", f"unix://{root}/odd.sock")
    process(3, "containerd-shim", "-namespace", "k8s.io", "-address", f"{root}/k.sock")
    process(4, "containerd-shim", "-namespace", "moby", "-address", f"{root}/moby.sock")
    found = Sources(Faults(), root, root / "proc")
    assert {(one.family.value, one.where) for one in found._running()} == {
        ("podman", f"{root}/odd"),
        ("docker", f"{root}/odd.sock"),
        ("cri", f"{root}/k.sock"),
    }
    assert [one.where for one in found.find()[0]] == [f"{root}/odd"]
    (root / "proc/1/cmdline").unlink()
    assert [one.where for one in found.find()[0]] == [f"{root}/odd"]  # once told, it stays known
