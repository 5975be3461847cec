"""Real container engines, started as a test needs them: dockerd, Podman, containerd with its CRI plugin.

Each runs in a mount namespace of its own, where the v2 hierarchy is at /sys/fs/cgroup (engines refuse hybrid
mounts) and /run/containerd is its own, and in the lab's network namespace; containers share that one.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.network import TRAFFIC, cgroup2_root
from tests.support.pods import Kubelet, Pod

if TYPE_CHECKING:
    from tests.support.network import Lab

PATIENCE = 60.0
IMAGE = "localai/localai:latest"  # of the profile `localai`, which no other test means
OTHER = "other/thing:latest"
_MOUNTS = """
mount --make-rprivate / && mount --bind "$1" /run/containerd && shift
[ "$0" = /sys/fs/cgroup ] || mount --bind "$0" /sys/fs/cgroup
exec "$@"
"""


def isolated(lab: Lab, place: Path, *command: str) -> list[str]:
    """Return a command that runs where an engine can; what it keeps in /run/containerd is kept in `place`."""
    Path("/run/containerd").mkdir(mode=0o711, exist_ok=True)
    shims = place / "run"
    shims.mkdir(exist_ok=True)
    inside = ["nsenter", f"--net=/run/netns/{lab.client.name}", *command]
    return ["unshare", "-m", "sh", "-c", _MOUNTS, str(cgroup2_root()), str(shims), *inside]


def knocker(lab: Lab) -> Path:
    """Pack the programs that knock and that resolve into an image's one layer; returns the archive."""
    archive = lab.scratch / "knock.tar"
    if not archive.exists():
        resolve = lab.scratch / "resolve-static"
        source = str(TRAFFIC / "resolve.c")
        subprocess.run(["musl-gcc", "-O2", "-static", "-o", str(resolve), source], check=True)
        with tarfile.open(archive, "w") as tar:
            tar.add(lab.build("knock.c"), "knock")
            tar.add(resolve, "resolve")
    return archive


def until(condition: object, what: str) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.02)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


class Process:
    """A program that runs beside the test; `log` is what it has printed."""

    def __init__(self, command: list[str], log: Path, **options: Any) -> None:  # noqa: ANN401 - of subprocess
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True, **options
            )

    @property
    def pid(self) -> int:
        """Return its process id: the commands before it have become it by exec."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait for that."""
        if not self.ended:
            self._process.send_signal(number)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


class Dockerd:
    """A Docker daemon with two images of the program that knocks."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.place = Path(f"/tmp/tattle-docker-{os.getpid()}-{secrets.token_hex(3)}")  # noqa: S108 - paths of sockets are short
        self.socket = self.place / "docker.sock"
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.place.mkdir()
        self.start()
        for image in (IMAGE, OTHER):
            name, _, tag = image.partition(":")
            with knocker(self._lab).open("rb") as layer:
                self.ask("POST", f"/images/create?fromSrc=-&repo={name}&tag={tag}", layer, raw=True)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            for one in self.ask("GET", "/containers/json?all=1"):
                self.remove(one["Id"])
        self.stop()
        shutil.rmtree(self.place, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = isolated(
            self._lab,
            self.place,
            *["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"],
            *["--exec-opt", "native.cgroupdriver=cgroupfs", "--default-ulimit", "nofile=1000:1000"],
            *["--data-root", str(self.place / "data"), "--exec-root", str(self.place / "exec")],
            *["--pidfile", str(self.place / "pid"), "-H", f"unix://{self.socket}"],
        )
        self._process = Process(command, self.place / "log")
        until(self._answers, f"dockerd: see {self.place}/log")

    def _answers(self) -> bool:
        assert self._process
        assert not self._process.ended, (self.place / "log").read_text()[-2000:]
        try:
            self.ask("GET", "/_ping", raw=True)
        except OSError:
            return False
        return True

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and all that it runs."""
        files = list((self.place / "exec").glob("containerd/*.pid"))
        helpers = [int(file.read_text()) for file in files]
        if self._process is not None:
            self._process.stop(number)
        self._process = None
        for pid in helpers:  # its containerd, which holds a lock that a new one waits for
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            until(lambda one=pid: not Path(f"/proc/{one}/exe").exists(), "containerd ends")
        for file in (self.socket, self.place / "pid", *files):
            file.unlink(missing_ok=True)

    def hang(self) -> None:
        """Stop it: it takes calls, and answers none."""
        assert self._process
        self._process.send(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        assert self._process
        self._process.send(signal.SIGCONT)

    def ask(self, method: str, path: str, body: Any = None, *, raw: bool = False) -> Any:  # noqa: ANN401 - JSON
        """Ask its API; RuntimeError where it refuses."""
        connection = _Connection(self.socket)
        try:
            headers = {"Content-Type": "application/x-tar" if raw else "application/json"}
            told = body if raw or body is None else json.dumps(body)
            connection.request(method, path, told, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {answer!r}")
        return answer if raw or not answer else json.loads(answer)

    def create(self, name: str, image: str, *command: str, **labels: str) -> str:
        """Make a container; returns its id."""
        settings = {
            "Image": image,
            "Cmd": ["/knock", *command],
            "Labels": {key.replace("__", "."): value for key, value in labels.items()},
            "HostConfig": {"NetworkMode": "host"},
        }
        made: str = self.ask("POST", f"/containers/create?name={name}", settings)["Id"]
        return made

    def resolve(self, name: str, server: str, *words: str) -> str:
        """Make a container anew that asks a resolver of its own at once; returns what its program says."""
        self.remove(name)
        settings = {
            "Image": OTHER,
            "Cmd": ["/resolve", *words],
            "HostConfig": {"NetworkMode": "host", "Dns": [server]},
        }
        made: str = self.ask("POST", f"/containers/create?name={name}", settings)["Id"]
        self.start_container(made)
        self.wait(made)
        said: bytes = self.ask("GET", f"/containers/{made}/logs?stdout=1", raw=True)
        return said[said.index(b"{") :].decode()

    def start_container(self, container: str) -> None:
        """Start a container."""
        self.ask("POST", f"/containers/{container}/start")

    def wait(self, container: str) -> int:
        """Wait for a container's end; returns its exit code."""
        code: int = self.ask("POST", f"/containers/{container}/wait")["StatusCode"]
        return code

    def remove(self, container: str) -> None:
        """Remove a container as `docker rm -f` does; one that is absent is fine."""
        with contextlib.suppress(RuntimeError):
            self.ask("DELETE", f"/containers/{container}?force=1")

    def run(self, name: str, image: str, *command: str, **labels: str) -> str:
        """Remove what has the name, make and start it again; returns the new id."""
        self.remove(name)
        made = self.create(name, image, *command, **labels)
        self.start_container(made)
        return made


class Podman:
    """Podman with state of its own, without a service."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.place = Path(f"/tmp/tattle-podman-{os.getpid()}-{secrets.token_hex(3)}")  # noqa: S108 - as above

    def __enter__(self) -> Self:
        self.place.mkdir()
        for image in (IMAGE, OTHER):
            # Labelled: two names of one image would each be a name of all its containers.
            change = ("--change", f"LABEL of={image}")
            self.ask("import", *change, str(knocker(self._lab)), f"docker.io/{image}")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError):
            self.ask("rm", "-af", "-t", "0")
        subprocess.run(["umount", "-R", str(self.place / "root/vfs")], check=False, capture_output=True)
        shutil.rmtree(self.place, ignore_errors=True)

    def ask(self, *words: str) -> str:
        """Run a podman command; returns what it prints."""
        command = [
            *["podman", "--cgroup-manager=cgroupfs", "--storage-driver=vfs", "--runtime", "runc"],
            *["--root", str(self.place / "root"), "--runroot", str(self.place / "runroot")],
            *["--tmpdir", str(self.place / "tmp"), *words],
        ]
        done = subprocess.run(
            isolated(self._lab, self.place, *command),
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"podman {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def run(self, name: str, image: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Replace the container of this name by a new one; returns its id."""
        return self.ask(
            *["run", "-d", "--replace", "--name", name, "--network", "host", "--pids-limit=-1"],
            *["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", *options],
            *[f"docker.io/{image}", "/knock", *command],
        )

    def resolve(self, name: str, server: str, *words: str) -> str:
        """Make a container anew that asks a resolver of its own at once; returns what its program says."""
        self.ask(
            *["run", "-d", "--replace", "--name", name, "--network", "host", "--pids-limit=-1"],
            *["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "--dns", server],
            *[f"docker.io/{OTHER}", "/resolve", *words],
        )
        self.wait(name)
        return self.ask("logs", name)

    def wait(self, container: str) -> None:
        """Wait for a container's end."""
        self.ask("wait", container)


_RUNC = """#!/usr/bin/python3
# runc where the v2 hierarchy has no controllers, and limits may not be raised: the bundle's are left out.
import json, os, sys
words = sys.argv[1:]
if "create" in words and "--bundle" in words:
    file = words[words.index("--bundle") + 1] + "/config.json"
    with open(file) as stream:
        spec = json.load(stream)
    spec["linux"]["resources"] = {"devices": spec["linux"].get("resources", {}).get("devices", [])}
    for name in ("rlimits", "oomScoreAdj"):
        spec["process"].pop(name, None)
    with open(file, "w") as stream:
        json.dump(spec, stream)
os.execvp("runc", ["runc", *words])
"""
_CONTAINERD = """
version = 2
root = "{place}/root"
state = "{place}/state"
[grpc]
  address = "{place}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:local"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{place}/runc"
"""
_PAUSE = "docker.io/library/pause:local"


class Containerd:
    """containerd with its CRI plugin, as on a Kubernetes node; `kubelet` asks it for pods."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.place = Path(f"/tmp/tattle-containerd-{os.getpid()}-{secrets.token_hex(3)}")  # noqa: S108 - as above
        self.socket = self.place / "containerd.sock"
        self._process: Process | None = None
        self._kubelet: Kubelet | None = None
        self._sandboxes: list[str] = []

    @property
    def kubelet(self) -> Kubelet:
        """What asks it."""
        assert self._kubelet
        return self._kubelet

    def __enter__(self) -> Self:
        self.place.mkdir()
        (self.place / "config.toml").write_text(_CONTAINERD.format(place=self.place))
        (self.place / "runc").write_text(_RUNC)
        (self.place / "runc").chmod(0o755)
        command = isolated(self._lab, self.place, "containerd", "-c", str(self.place / "config.toml"))
        self._process = Process(command, self.place / "log")
        until(lambda: self._ctr("version").returncode == 0, f"containerd: see {self.place}/log")
        done = self._ctr("-n", "k8s.io", "images", "import", str(self._archive()))
        assert done.returncode == 0, done.stderr
        self._kubelet = Kubelet(self.socket, self.place / "logs")
        return self

    def _ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "-a", str(self.socket), *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)

    def _archive(self) -> Path:
        """Pack the images as `docker save` does."""
        layer = knocker(self._lab)
        digest = hashlib.sha256(layer.read_bytes()).hexdigest()
        settings = {"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/knock"]}}
        settings["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
        tags = [f"docker.io/{IMAGE}", f"docker.io/{OTHER}", _PAUSE]
        (self.place / "config.json").write_text(json.dumps(settings))
        manifest = [{"Config": "config.json", "RepoTags": tags, "Layers": ["layer.tar"]}]
        (self.place / "manifest.json").write_text(json.dumps(manifest))
        archive = self.place / "images.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(layer, "layer.tar")
            for name in ("config.json", "manifest.json"):
                tar.add(self.place / name, name)
        return archive

    def pod(self, namespace: str, name: str) -> tuple[Pod, str]:
        """Make a pod; returns it and its id."""
        made = Pod(namespace, name, str(uuid.uuid4()))
        self._sandboxes.append(self.kubelet.run_pod(made))
        return made, self._sandboxes[-1]

    def __exit__(self, *_: object) -> None:
        for sandbox in self._sandboxes:
            with contextlib.suppress(Exception):
                self.kubelet.remove_pod(sandbox)
        if self._kubelet:
            self._kubelet.close()
        if self._process:
            self._process.stop()
        shutil.rmtree(self.place, ignore_errors=True)
