"""Build tattle_VERSION_ARCH.deb out of a wheel: `make deb`, or `python deploy/deb/build.py FOLDER`.

Debian 12 has none of what tattle depends on in a version that is new enough (rich 13, prometheus_client
0.16, cryptography 38, no msgspec), hence the dependencies travel inside, in /usr/lib/tattle, where nothing
else finds them; Python itself and libbpf are the distribution's. Compiled modules carry the Python version in
their file's name, so one package holds those of all versions from Debian 12's to the newest, and an upgrade
of the distribution's Python does not break it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import argcomplete

from tracer.notify import autostart

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = ROOT / "deploy" / "deb"
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
# glibc of Debian 12 is 2.36: PEP 600
PLATFORMS: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")
SHELLS: Final = {
    "bash": "bash-completion/completions/tattle",
    "fish": "fish/vendor_completions.d/tattle.fish",
    "zsh": "zsh/vendor-completions/_tattle",
}
LIBRARY: Final = "usr/lib/tattle"
LAUNCHER: Final = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/lib/tattle")
from tracer.__main__ import main

sys.exit(main())
"""
CONTROL: Final = """\
Package: tattle
Version: {version}
Architecture: {arch}
Maintainer: tattle maintainers <tattle@localhost>
Installed-Size: {size}
Depends: python3 (>= 3.11), python3 (<< 3.15), libbpf1 (>= 1:1.1)
Suggests: prometheus, python3-bpfcc
Section: net
Priority: optional
Description: tells on programs that phone home
 Watches every connection that the processes of this host make, says which
 program sent how much to whom, exports that to Prometheus, and can stop it in
 the kernel for one program, first of all a local model server such as ollama,
 without breaking that program's own API.
 .
 Small eBPF programs at the root of the cgroup tree do the counting; no module,
 no compiler and no kernel headers are needed. Linux 5.10 and newer.
"""


def run(*command: str | Path) -> str:
    """Run a command that must succeed; give what it printed."""
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"deb: {command[0]} failed\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def pip(*words: str | Path) -> None:
    """Run pip of this Python."""
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of the package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def libraries(wheel: Path, machine: str, scratch: Path, target: Path) -> None:
    """Put the wheel and all that it depends on into `target`, for every Python version."""
    platforms = [word for tag in PLATFORMS for word in ("--platform", f"{tag}_{machine}")]

    def fetch(version: str) -> None:
        only = ("--only-binary=:all:", "--no-compile", "--python-version", version, *platforms)
        pip("install", "--target", scratch / version, *only, wheel)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fetch, PYTHONS))
    for version in PYTHONS:
        tree = scratch / version
        for data in ("bin", "share"):  # the package has these in Debian's places
            shutil.rmtree(tree / data, ignore_errors=True)
        merge(tree, target)
    for record in [*target.glob("*.dist-info/RECORD"), *target.glob("*.dist-info/direct_url.json")]:
        record.unlink()  # what pip would remove by: here dpkg does


def merge(tree: Path, target: Path) -> None:
    """Add what `target` does not have: compiled modules of one more Python version."""
    for path in sorted(tree.rglob("*")):
        there = target / path.relative_to(tree)
        if path.is_file() and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)


def completions(root: Path) -> None:
    """Write what the three shells ask for when TAB is pressed."""
    share = root / "usr" / "share"
    for shell, place in SHELLS.items():
        write(share / place, argcomplete.shellcode(["tattle"], shell=shell))


def pages(root: Path) -> None:
    """Write the manual, and what else Debian wants to be documented."""
    manual = root / "usr/share/man"
    run(sys.executable, ROOT / "deploy" / "man.py", manual)
    for path in [*manual.rglob("*.[58]")]:
        packed(path, path.read_bytes())
        path.unlink()
    doc = root / "usr/share/doc/tattle"
    doc.mkdir(parents=True)
    packed(doc / "changelog", (ROOT / "CHANGELOG.md").read_bytes())
    licences = ("LICENSE", "LICENSE.GPL-2.0", "LICENSE.BSD-2-Clause")
    write(doc / "copyright", "\n\n".join((ROOT / name).read_text() for name in licences))
    examples = ("systemd/ollama.service.d", "prometheus", "grafana", "kubernetes")
    for name in [name for name in examples if (ROOT / "deploy" / name).exists()]:
        only_data = shutil.ignore_patterns("*.py", "__pycache__")
        shutil.copytree(ROOT / "deploy" / name, doc / "examples" / Path(name).name, ignore=only_data)


def packed(path: Path, data: bytes) -> None:
    """Write a file compressed as Debian's policy 12.1 wants it: best, without name and time."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data, 9, mtime=0))


def configuration(root: Path) -> None:
    """Write the services, the default configuration and the command."""
    for name in ("tattle.service", "tattle-restore.service"):
        unit = (ROOT / "deploy/systemd" / name).read_text()
        unit = unit.replace("/opt/tattle/bin/tattle", "/usr/bin/tattle")
        write(root / "usr/lib/systemd/system" / name, unit)
    write(root / "etc/tattle/tattle.toml", (ROOT / "deploy/tattle.toml").read_text())
    write(root / "etc/xdg/autostart" / autostart.NAME, autostart.entry("/usr/bin/tattle", hidden=True))
    write(root / "usr/bin/tattle", LAUNCHER, 0o755)


def control(root: Path, version: str, arch: str) -> None:
    """Write what dpkg is told: the control file, checksums, scripts."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files]  # noqa: S324 - dpkg's format
    size = sum(path.stat().st_size for path in files) // 1024
    write(root / "DEBIAN/control", CONTROL.format(version=version, arch=arch, size=size))
    write(root / "DEBIAN/md5sums", "".join(sums))
    write(root / "DEBIAN/conffiles", f"/etc/tattle/tattle.toml\n/etc/xdg/autostart/{autostart.NAME}\n")
    for name in ("postinst", "prerm", "postrm"):
        write(root / "DEBIAN" / name, (HERE / name).read_text(), 0o755)


def settle(root: Path) -> None:
    """Give every file the mode and the time that it would have on any other machine, too."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in [root, *root.rglob("*")]:
        program = path.is_dir() or (os.access(path, os.X_OK) and LIBRARY not in str(path))
        path.chmod(0o755 if program else 0o644)
        os.utime(path, (epoch, epoch))


def main() -> None:
    """Build the package and say where it is."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    out.mkdir(parents=True, exist_ok=True)
    arch = run("dpkg", "--print-architecture")
    if arch not in MACHINES:
        sys.exit(f"deb: no wheels of the dependencies for {arch}: {', '.join(MACHINES)}")
    os.environ.setdefault("SOURCE_DATE_EPOCH", run("git", "log", "-1", "--format=%ct") or "0")
    with tempfile.TemporaryDirectory() as name:
        scratch, root = Path(name), Path(name) / "root"
        pip("wheel", "--no-deps", "--wheel-dir", scratch, ROOT)
        (wheel,) = scratch.glob("tattle_ebpf-*.whl")
        libraries(wheel, MACHINES[arch], scratch / "pythons", root / LIBRARY)
        completions(root)
        pages(root)
        configuration(root)
        version = wheel.name.split("-")[1]
        control(root, version, arch)
        settle(root)
        package = out / f"tattle_{version}_{arch}.deb"
        run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, package)
    print(package)  # noqa: T201 - what the caller asked for


if __name__ == "__main__":
    main()
