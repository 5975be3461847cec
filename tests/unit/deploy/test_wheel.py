"""A wheel carries the kernel half, so a host that only uses tattle needs no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OBJECT = "tracer/objects/tattle.bpf.o"
FOLDERS = ("bpf", "deploy", "tracer", "exporters")
SOURCES = (*FOLDERS, "pyproject.toml", "README.md", "LICENSE", "LICENSE.GPL-2.0")


def run(*command: str | Path, bare: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `command`; with `bare`, find programs in that folder alone: no make, no clang."""
    path = {"PATH": str(bare)} if bare else {}
    return subprocess.run(command, env=os.environ | path, check=False, capture_output=True, text=True)


def succeed(*command: str | Path, bare: Path | None = None) -> str:
    """Run `command` and give its output, or fail with what it said."""
    done = run(*command, bare=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the bin folder of an environment that holds the build backend and nothing of tattle."""
    venv = tmp_path_factory.mktemp("builder")
    succeed(sys.executable, "-m", "venv", venv)
    succeed(venv / "bin" / "pip", "install", "--quiet", "hatchling>=1.27")
    return venv / "bin"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a copy of the sources in which nothing was compiled."""
    tree = tmp_path / "checkout"
    tree.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    shutil.rmtree(tree / "tracer" / "objects", ignore_errors=True)
    return tree


def wheel(builder: Path, source: Path, out: Path, bare: Path | None = None) -> Path:
    """Build the wheel of `source` into `out`."""
    pip = (builder / "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out)
    succeed(*pip, source, bare=bare)
    return next(out.glob("tattle_ebpf-*.whl"))


def test_wheel_runs_where_there_is_no_clang(builder: Path, checkout: Path, tmp_path: Path) -> None:
    """Installed into a fresh environment, `tattle` starts and its object is beside it."""
    built = wheel(builder, checkout, tmp_path)
    assert built.name.endswith("-py3-none-any.whl"), "the same bytes serve every little-endian machine"
    packed = set(zipfile.ZipFile(built).namelist())
    assert "exporters/pages/static/page.js" in packed, "the page for people travels, too"
    sources = {f"tracer/sources/{path.name}" for path in (ROOT / "bpf").glob("*.[ch]")}
    assert sources <= packed, "and what bcc compiles"
    assert {"tracer/py.typed", "exporters/py.typed"} <= packed, "type checkers read the annotations"
    venv = tmp_path / "venv"
    succeed(sys.executable, "-m", "venv", venv)
    succeed(venv / "bin" / "pip", "install", "--quiet", built)
    bare = venv / "bin"
    assert succeed(bare / "tattle", "--version", bare=bare).startswith("tattle ")
    there = "import tracer, pathlib; print(pathlib.Path(tracer.__file__).parent / 'objects' / 'tattle.bpf.o')"
    assert Path(succeed(bare / "python", "-I", "-c", there).strip()).read_bytes()[:4] == b"\x7fELF"


def test_sdist_carries_the_object_for_hosts_without_clang(
    builder: Path, checkout: Path, tmp_path: Path
) -> None:
    """`pip install tattle_ebpf-*.tar.gz` needs no clang either: the object travels inside."""
    hatchling = (
        "import os, sys, hatchling.build; os.chdir(sys.argv[1]); hatchling.build.build_sdist(sys.argv[2])"
    )
    succeed(builder / "python", "-c", hatchling, checkout, tmp_path)
    sdist = next(tmp_path.glob("tattle_ebpf-*.tar.gz"))
    with tarfile.open(sdist) as archive:
        inside = next(name for name in archive.getnames() if name.endswith(OBJECT))
        packed = archive.extractfile(inside)
        assert packed is not None
        assert packed.read() == (checkout / OBJECT).read_bytes()
    built = wheel(builder, sdist, tmp_path, bare=builder)
    assert OBJECT in zipfile.ZipFile(built).namelist()


def test_build_says_what_is_missing(builder: Path, checkout: Path) -> None:
    """No compiler and no object: one line what failed, one line what to install, no half a wheel."""
    done = run(builder / "pip", "wheel", "--no-deps", "--no-build-isolation", checkout, bare=builder)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "cannot compile bpf/, this is missing: make, clang, llvm-strip" in said
    assert "apt-get install make clang llvm libbpf-dev" in said
    assert "Traceback" not in said
