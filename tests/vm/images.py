"""What a guest boots: a kernel, a small userland and this project, as initramfs archives laid end to end.

Three archives, by how often they change: Debian's userland (kept), the kernel's modules (kept, one per
kernel) and the project (made anew each time). Everything kept lies in `.cache/vm`; remove it to refresh.
"""

import lzma
import py_compile
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.vm.cpio import Archive
from tests.vm.debs import Member, Suite, members

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache/vm"
GUEST_PYTHON = "3.11"  # of the userland's suite
USERLAND_SUITE = "bookworm"

# Closure over shared libraries by hand: a resolver would bring perl and half of Debian.
USERLAND = [
    *("busybox-static", "bpftool", "iproute2", "libbpf1", "libbsd0", "libbz2-1.0", "libc6", "libcap2"),
    *("libelf1", "libexpat1", "libffi8", "libgcc-s1", "liblzma5", "libmd0", "libmnl0", "libpcre2-8-0"),
    *("libpython3.11-minimal", "libpython3.11-stdlib", "libselinux1", "libsqlite3-0", "libssl3", "libtirpc3"),
    *("libuuid1", "libxtables12", "libzstd1", "python3.11-minimal", "zlib1g"),
]
# What compiles the programs in the guest (`--engine bcc`), likewise: 260 MB, for those guests only.
BCC = [
    *("python3-bpfcc", "libbpfcc", "libclang-cpp14", "libllvm14", "libedit2", "libicu72", "libstdc++6"),
    *("libtinfo6", "libxml2", "libz3-4"),
]
# Not unittest: pyroute2 needs it (pyroute2/netlink/rtnl/iprsocket.py).
UNUSED = re.compile(
    r"usr/share/|usr/lib/x86_64-linux-gnu/(gconv|perl)|usr/lib/valgrind|etc/"
    r"|usr/lib/python3.11/(ensurepip|lib2to3|idlelib|tkinter|pydoc_data|distutils|config-|turtle)"
    r"|.*/(test|tests|__pycache__)/|.*\.(a|exe)$",
)
# And what they depend on; what is built in is no file. A file of modules goes by their names.
MODULES = ("veth", "tcp_diag", "sctp")
SHARED = ("tests/__init__.py", "tests/support/__init__.py", "tests/support/links.py")
"""Of the other tests, what the guest's scripts use."""
MERGED = ("bin", "sbin", "lib", "lib64")


class Kernel(NamedTuple):
    """A kernel line, the suite whose cloud image has it, and the processor to emulate for it."""

    line: str
    suite: str
    cpu: str = "qemu64"


class Guest(NamedTuple):
    """A kernel, and the engine that makes the programs on it."""

    kernel: Kernel
    engine: str

    @property
    def name(self) -> str:
        """The kernel line; with the engine where it is not the default."""
        return self.kernel.line if self.engine == "libbpf" else f"{self.kernel.line}-{self.engine}"


KERNELS = (
    Kernel("5.10", "bullseye"),
    Kernel("6.1", "bookworm"),
    # QEMU 7.2 gets the flags of cmpxchg16b wrong when it is interrupted, and 6.12's allocator dies of it. Not
    # for all: without that instruction 7.x refuses memory for socket storage (kmalloc_nolock, mm/slub.c).
    Kernel("6.12", "bookworm-backports", "qemu64,-cx16"),
    Kernel("newest", "trixie-backports"),
)
GUESTS = tuple(Guest(kernel, engine) for engine in ("libbpf", "bcc") for kernel in KERNELS)


class Bootable(NamedTuple):
    """What a machine boots: a kernel and one initramfs, on this processor, with so many MiB."""

    vmlinuz: Path
    initramfs: bytes
    cpu: str
    memory: int


def bootable(guest: Guest, project: bytes) -> Bootable:
    """Give what boots the guest's kernel with the archive `project` laid over the userland."""
    vmlinuz, modules = _kernel_files(guest.kernel)
    archives = [_userland(), modules]
    if guest.engine == "bcc":
        archives.append(_kept("bcc.cpio", BCC))
    last = Archive()
    last.file("guest/engine", guest.engine.encode())
    content = [*(path.read_bytes() for path in archives), project, last.content()]
    return Bootable(vmlinuz, b"".join(content), guest.kernel.cpu, 1024 if guest.engine == "libbpf" else 2048)


def project_archive() -> bytes:
    """Give the project as it is now (sources, BPF object, dependencies) and the guest's own script."""
    archive = Archive()
    for package in ("tracer", "exporters", "bpf"):
        for path in sorted((PROJECT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.file(f"project/{path.relative_to(PROJECT)}", path.read_bytes())
    here = Path(__file__).parent
    archive.symlink("var/run", "/run")  # where pyroute2 keeps namespaces, and ip-netns(8) of old
    archive.file("init", (here / "init.sh").read_bytes(), 0o755)
    for script in sorted(here.glob("guest*.py")):
        archive.file(f"guest/{script.name}", script.read_bytes())
    for shared in SHARED:
        archive.file(f"guest/{shared}", (PROJECT / shared).read_bytes())
    return archive.content() + _dependencies().read_bytes()


def _kernel_files(kernel: Kernel) -> tuple[Path, Path]:
    home = CACHE / "kernels" / kernel.suite
    vmlinuz, modules = home / "vmlinuz", home / f"{'-'.join(MODULES)}.cpio"
    if not (vmlinuz.exists() and modules.exists()):
        home.mkdir(parents=True, exist_ok=True)
        files = [member for deb in _kernel_debs(kernel) for member in members(deb)]
        modules.write_bytes(_modules(files).content())
        vmlinuz.write_bytes(
            next(file.data for file in files if re.search(r"(^|/)vmlinuz", file.path) and file.data)
        )
    return vmlinuz, modules


def _kernel_debs(kernel: Kernel) -> list[Path]:
    suite = Suite(kernel.suite, CACHE / "apt")
    image = suite.depends("linux-image-cloud-amd64", r"linux-image-\d\S+")[0]
    # Since 7.x the image package is empty and these two have the files.
    return suite.download([image, *suite.depends(image, r"linux-(binary|modules)-\d\S+")])


def _modules(files: list[Member]) -> Archive:
    """Put MODULES with their dependencies into an archive, `modules/order` lists them as to be inserted."""
    found = {
        Path(file.path).name.partition(".ko")[0].replace("-", "_"): file
        for file in files
        if ".ko" in file.path
    }
    archive, order = Archive(), []

    def insert(name: str) -> None:
        if name in order or name not in found:
            return
        data = _uncompressed(found[name])
        listed = re.search(rb"\0depends=([^\0]*)\0", data)
        for needed in listed[1].decode().split(",") if listed else ():
            insert(needed.replace("-", "_"))
        archive.file(f"modules/{name}.ko", data)
        order.append(name)

    for name in MODULES:
        insert(name)
    archive.file("modules/order", "".join(f"{name}\n" for name in order).encode())
    return archive


def _uncompressed(file: Member) -> bytes:
    if file.path.endswith(".xz"):
        return lzma.decompress(file.data)
    if file.path.endswith(".zst"):
        return subprocess.run(["zstd", "-dc"], input=file.data, capture_output=True, check=True).stdout
    return file.data


def _userland() -> Path:
    archive = Archive()
    for name in MERGED:
        archive.symlink(name, f"usr/{name}")
    for name in ("dev", "proc", "sys", "run", "tmp", "etc", "var/lib", "root"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    return _kept("userland.cpio", USERLAND, archive)


def _kept(name: str, packages: list[str], archive: Archive | None = None) -> Path:
    """Give the archive of these packages' files, made once; `archive` has what else belongs to it."""
    kept = CACHE / name
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        archive = archive or Archive()
        debs = Suite(USERLAND_SUITE, CACHE / "apt").download(packages)
        _fill(archive, (member for deb in debs for member in members(deb)))
        kept.write_bytes(archive.content())
    return kept


def _fill(archive: Archive, files: Iterator[Member]) -> None:
    sources = []
    for file in files:
        path = f"usr/{file.path}" if file.path.split("/")[0] in MERGED else file.path
        if UNUSED.match(path):
            continue
        if file.link:
            archive.symlink(path, file.link)
            continue
        archive.file(path, file.data, file.mode)
        if path.endswith(".py"):
            sources.append((path, file.data))
    _compile(archive, sources)


def _compile(archive: Archive, sources: list[tuple[str, bytes]]) -> None:
    """Add byte code where this Python makes what the guest's can read: emulated compiling takes long."""
    if sys.implementation.cache_tag != f"cpython-{GUEST_PYTHON.replace('.', '')}":
        return
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "source.py"), Path(scratch, "target.pyc")
        for path, data in sources:
            source.write_bytes(data)
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(
                str(source), str(target), dfile=f"/{path}", invalidation_mode=mode, doraise=True
            )
            where = Path(path)
            name = f"{where.parent}/__pycache__/{where.stem}.{sys.implementation.cache_tag}.pyc"
            archive.file(name, target.read_bytes())


def _dependencies() -> Path:
    """Give the archive of the project's run-time dependencies, as wheels for the guest's Python."""
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    kept, stamp = CACHE / "dependencies.cpio", CACHE / "dependencies.txt"
    if kept.exists() and stamp.exists() and stamp.read_text() == "\n".join(wanted):
        return kept
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            scratch,
        ]
        only = ["--only-binary=:all:", "--python-version", GUEST_PYTHON, "--platform", "manylinux2014_x86_64"]
        subprocess.run([*pip, *only, "--no-compile", *wanted], check=True)
        archive = Archive()
        files = (path for path in sorted(Path(scratch).rglob("*")) if path.is_file())
        _fill(archive, (_site_member(path, Path(scratch)) for path in files))
        kept.write_bytes(archive.content())
    stamp.write_text("\n".join(wanted))
    return kept


def _site_member(path: Path, site: Path) -> Member:
    return Member(f"site/{path.relative_to(site)}", path.stat().st_mode, path.read_bytes(), "")
