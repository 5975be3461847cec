"""A package goes into a fresh Debian, works there, and leaves nothing when it is taken out."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.roots import ROOT, SUITES, Root
from tests.support.daemon import PATIENCE
from tests.support.packet_counters import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHONS = ("3.11", "3.11", "3.13")
"""The one that builds tattle's own wheel, and those of the suites."""

ASK = """
import socket
with socket.create_connection(("127.0.0.1", 9753)) as door:
    door.sendall(b"GET /healthz HTTP/1.0\\r\\n\\r\\n")
    print(door.makefile("rb").read().decode())
"""
WITHOUT_NETWORK = ("env", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/tmp/wheels", "PIP_ROOT_USER_ACTION=ignore")
COMPLETE = """
source /usr/share/bash-completion/completions/tattle
COMP_WORDS=(tattle fl); COMP_CWORD=1; COMP_LINE='tattle fl'; COMP_POINT=9; COMP_TYPE=9
_python_argcomplete tattle fl tattle; echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package as `make deb` does."""
    out = tmp_path_factory.mktemp("deb")
    build = [sys.executable, ROOT / "deploy" / "deb" / "build.py", out]
    done = subprocess.run(build, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (package,) = out.glob("tattle_*.deb")
    return package


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Root]:
    """Give a fresh root of a suite."""
    one = Root(request.param, tmp_path)
    yield one
    one.close()


def works(root: Root, tattle: str = "tattle") -> None:
    """Hold that the command says its version, finds the host fit, counts, and ends cleanly."""
    assert re.fullmatch(r"tattle \d+\.\d+\.\d+\S*\n", root.run(tattle, "--version"))
    root.run(tattle, "doctor")
    log = root.upper.parent / "daemon"
    with log.open("wb") as out:
        daemon = subprocess.Popen(
            root.command(tattle, "run", "--loopback"),
            stdout=out,
            stderr=out,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while "hooks attached" not in log.read_text():
            assert daemon.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert " 200 " in root.run("python3", "-c", ASK)
        flows = json.loads(root.run(tattle, "flows", "--json"))["flows"]
        asked = [flow for flow in flows if flow["remote_port"] == 9753 and flow["comm"] == "python3"]
        assert asked
        assert asked[0]["bytes_out"] > 0
    finally:
        daemon.send_signal(signal.SIGINT)
        code = daemon.wait(PATIENCE)
    assert code == 0, log.read_text()


@pytest.mark.parametrize("root", SUITES, indirect=True)
def test_the_deb_comes_and_goes(root: Root, deb: Path) -> None:
    """That Debian has its dependencies; manual, completion and service are in place; purge leaves nothing."""
    assert root.changed() == set()
    root.run("dpkg", "-i", root.put(deb, "tattle.deb"))
    works(root)
    assert "phone home" in root.run("man", "-P", "cat", "tattle")
    assert "SIGHUP" in root.run("man", "-P", "cat", "tattle-run")
    assert "max_destinations" in root.run("man", "-P", "cat", "tattle.toml")
    assert root.run("bash", "-c", COMPLETE).split() == ["flows"]
    assert "ExecStart=/usr/bin/tattle run" in root.run("cat", "/usr/lib/systemd/system/tattle.service")
    root.run("test", "-e", "/etc/systemd/system/multi-user.target.wants/tattle.service")
    assert "Hidden=true" in root.run("cat", "/etc/xdg/autostart/tattle-notify.desktop")
    root.run("test", "-e", "/etc/systemd/system/basic.target.wants/tattle-restore.service")
    assert root.run("dpkg", "--verify", "tattle") == ""

    root.run("sh", "-c", "echo '# mine' >>/etc/tattle/tattle.toml")
    root.run("dpkg", "-i", "/tmp/tattle.deb")  # noqa: S108 - of the root's own
    assert "# mine" in root.run("cat", "/etc/tattle/tattle.toml")

    root.run("dpkg", "--remove", "tattle")
    enabled = ("etc/systemd/system/multi-user.target.wants/", "etc/systemd/system/basic.target.wants/")
    kept = ("etc/tattle/", "etc/xdg/", "var/lib/tattle/", *enabled)
    assert {name for name in root.changed() if not name.startswith(kept)} == set()
    assert "etc/tattle/tattle.toml" in root.changed()
    root.run("dpkg", "--purge", "tattle")
    assert root.changed() == set()


@pytest.mark.parametrize("root", SUITES[:1], indirect=True)
def test_a_block_ends_with_its_package(root: Root, deb: Path) -> None:
    """Removed, nothing is left in the kernel that nobody could lift; installed again, the block is back."""
    cgroup = root.run(
        "sh",
        "-c",
        "mktemp -d /sys/fs/cgroup/unified/pkgXXXXXX 2>/dev/null || mktemp -d /sys/fs/cgroup/pkgXXXXXX",
    )
    target = f"cgroup:/{Path(cgroup.strip()).name}"
    try:
        root.run("dpkg", "-i", root.put(deb, "tattle.deb"))
        root.run("tattle", "block", target)
        root.run("tattle", "status", "--enforced", target)
        root.run("dpkg", "--remove", "tattle")
        assert "tattle" not in root.run("ls", "/sys/fs/bpf")
        root.run("dpkg", "-i", "/tmp/tattle.deb")  # noqa: S108 - of the root's own
        works(root)
        root.run("tattle", "status", "--enforced", target)
        root.run("dpkg", "--purge", "tattle")
        assert "tattle" not in root.run("ls", "/sys/fs/bpf")
        assert root.changed() == set()
    finally:
        root.run("rmdir", cgroup.strip())


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the wheel of tattle and those of all that it depends on, as an archive for a root's pip."""
    out = tmp_path_factory.mktemp("wheels")
    for version in PYTHONS:
        words = ["pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, ROOT]
        if list(out.glob("tattle_ebpf-*")):
            words = ["pip", "download", "--quiet", "--only-binary=:all:", "--python-version", version]
            words += ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"]
            words += ["--dest", out, next(out.glob("tattle_ebpf-*"))]
        done = subprocess.run([sys.executable, "-m", *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    archive = out / "wheels.tar"
    subprocess.run(["tar", "-cf", archive, "-C", out, *(path.name for path in out.glob("*.whl"))], check=True)
    return archive


def unpack(root: Root, wheels: Path) -> str:
    """Put the wheels into /tmp/wheels there; give tattle's."""
    root.run("mkdir", "/tmp/wheels")  # noqa: S108 - of the root's own
    root.run("tar", "-xf", root.put(wheels, "wheels.tar"), "-C", "/tmp/wheels")  # noqa: S108 - likewise
    return root.run("sh", "-c", "ls /tmp/wheels/tattle_ebpf-*.whl").strip()


@pytest.mark.parametrize("root", SUITES, indirect=True)
def test_the_wheel_comes_and_goes(root: Root, wheels: Path) -> None:
    """`pip install` into an environment is enough where libbpf.so.1 is; uninstalled, the command is gone."""
    wheel = unpack(root, wheels)
    root.run("python3", "-m", "venv", "/srv/tattle")
    root.run(*WITHOUT_NETWORK, "/srv/tattle/bin/pip", "install", "--quiet", wheel)
    works(root, "/srv/tattle/bin/tattle")
    root.run("/srv/tattle/bin/pip", "uninstall", "--quiet", "--yes", "tattle-ebpf")
    assert (
        root.run("find", "/srv/tattle", "-name", "*tattle*", "-mindepth", "1", "-not", "-name", "__pycache__")
        == ""
    )
    left = {name for name in root.changed() if not name.startswith("srv/")}
    assert left <= {"var/lib/tattle/"} | {name for name in left if name.startswith("var/lib/tattle/")}


@pytest.mark.parametrize("root", SUITES[:1], indirect=True)
def test_one_line_installs_and_takes_back(root: Root, wheels: Path) -> None:
    """deploy/install.sh brings command, manual, service and completion; --uninstall leaves nothing."""
    wheel = unpack(root, wheels)
    script = root.put(ROOT / "deploy" / "install.sh", "install.sh")
    assert "systemctl enable --now tattle" in root.run(*WITHOUT_NETWORK, "sh", script, wheel)
    works(root)
    assert "phone home" in root.run("man", "-P", "cat", "tattle")
    assert "ExecStart=/opt/tattle/bin/tattle run" in root.run("cat", "/etc/systemd/system/tattle.service")
    root.run("test", "-s", "/usr/local/share/bash-completion/completions/tattle")
    root.run("sh", "-c", "echo '# mine' >>/etc/tattle/tattle.toml")
    root.run(*WITHOUT_NETWORK, "sh", script, wheel)
    assert "# mine" in root.run("cat", "/etc/tattle/tattle.toml")
    root.run("sh", script, "--uninstall")
    assert root.changed() == set()


@pytest.mark.parametrize("root", SUITES[:1], indirect=True)
def test_install_says_what_it_needs(root: Root) -> None:
    """Options it does not know and nothing to install are two lines, not half an installation."""
    script = root.put(ROOT / "deploy" / "install.sh", "install.sh")
    for words in (["--what"], []):
        done = root.attempt("sh", script, *words)
        assert done.returncode == 3
        assert len(done.stdout.splitlines()) == 2
    assert root.changed() == set()
