"""The distribution's python3-bpfcc (module `bcc`): compiles the programs on this host. Nobody else knows it.

It runs as a process of its own, since LLVM takes 130 MB and gives none back: `compiled` starts it, and `main`
is it. Kernel headers are not needed: what bcc's own headers want of a kernel are a few names (bpf/types.h),
and what the programs read of it is told by its BTF (relocate.py). So nothing can be of another kernel.

PyPI's `bcc` is an unrelated package.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from tracer.bpf import btf, libbpf
from tracer.bpf.loader import linker
from tracer.bpf.loader.linker import Program  # noqa: TC001 - msgspec reads it
from tracer.bpf.loader.relocate import Kernel
from tracer.errors import HostError, KernelError, LibraryMissing, ObjectError, TattleError

_PACKAGE: Final = Path(__file__).parents[2]
# In a wheel they are beside this file, in a checkout they stand in bpf/.
SOURCES: Final = _PACKAGE / "sources" if (_PACKAGE / "sources").is_dir() else _PACKAGE.parent / "bpf"
VMLINUX: Final = Path("/sys/kernel/btf/vmlinux")
# Where distributions put modules for their own Python; a virtual environment does not look there.
DISTRIBUTION: Final = "/usr/lib/python3/dist-packages"
_MAIN: Final = "tattle.bpf.c"
_APT: Final = "apt install python3-bpfcc (PyPI's bcc is another package)"
# LLVM optimizes for this host's processor first: what it widens or unrolls takes more stack than there is.
_FLAGS: Final = ("-DTATTLE_BCC", "-O2", "-fno-vectorize", "-fno-slp-vectorize", "-fno-unroll-loops")
_QUIET: Final = ("-Wno-incompatible-pointer-types-discards-qualifiers", "-Wno-macro-redefined")
_PROGRAM: Final = re.compile(r'^SEC\("([^"]+)"\)\nint (\w+)\(', re.MULTILINE)
_CHECKED_ONCE: Final = re.compile(r"^checked_once [^(]*?(\w+)\(", re.MULTILINE)
_TEXT: Final = f'__attribute__((section(".text"), used)) int {linker.FIRST}(void *ctx) {{ return 0; }}\n'
# What stands in the place of a kernel's headers: bcc includes these before the first line of a source.
_TREE: Final = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/bpf.h": "#include <bcc/bpf.h>\n",
    "uapi/linux/bpf.h": "#include <bcc/bpf.h>\n",
    "linux/version.h": "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))\n"
    "#define LINUX_VERSION_CODE KERNEL_VERSION(5, 10, 0)\n",
    "asm/page.h": "#define PAGE_SIZE 4096\n",
    **dict.fromkeys(("linux/bpf_common.h", "linux/log2.h", "uapi/linux/if_packet.h"), ""),
    **dict.fromkeys(("linux/ptrace.h", "uapi/linux/ptrace.h", "asm/ptrace.h"), ""),
}
_FAILED: Final = 3


class Compiled(msgspec.Struct, frozen=True):
    """The programs as this host's bcc made them, and their BTF."""

    programs: tuple[Program, ...]
    btf: bytes


def compiled() -> Compiled:
    """Compile for the running kernel; LibraryMissing, HostError or ObjectError where that cannot be."""
    modules = os.pathsep.join([str(_PACKAGE.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tracer.bpf.loader.bcc", str(SOURCES), DISTRIBUTION],
        env={**os.environ, "PYTHONPATH": modules},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode == 0:
        return msgspec.msgpack.decode(done.stdout, type=Compiled)
    if done.returncode == _FAILED and done.stdout:
        kind, message, hint = msgspec.msgpack.decode(done.stdout, type=tuple[str, str, str])
        refusals = {one.__name__: one for one in (HostError, KernelError, LibraryMissing, ObjectError)}
        raise refusals.get(kind, HostError)(message, hint)
    words = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
    wrong = next((line for line in words if "error:" in line), words[-1])
    raise ObjectError(
        f"bcc cannot compile the programs: {wrong}", f"mend {SOURCES}, or use the engine libbpf"
    )


def version() -> str:
    """Return which bcc there is, such as `bcc 0.26.0`; raises LibraryMissing."""
    found = sorted(Path(DISTRIBUTION).glob("bcc/version.py"))
    words = re.search(r"['\"]([\d.]+)", found[0].read_text(encoding="utf-8")) if found else None
    if words is None:
        raise LibraryMissing("python3-bpfcc is not installed", _APT)
    return f"bcc {words[1]}"


def main(sources: Path, distribution: str) -> int:
    """Compile and write what came out of it to standard output; what bcc prints goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        made = msgspec.msgpack.encode(_compile(sources, _library(distribution)))
    except TattleError as error:
        os.write(out, msgspec.msgpack.encode((type(error).__name__, error.message, error.hint)))
        return _FAILED
    with os.fdopen(out, "wb") as stream:
        stream.write(made)
    return 0


def _compile(folder: Path, library: Any) -> Compiled:  # noqa: ANN401 - a ctypes library
    with tempfile.TemporaryDirectory(prefix="tattle-bcc-") as place:
        sources = _write(folder, Path(place))
        flags = [f"-I{place}", *_FLAGS, *_QUIET]
        array = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        os.environ["BCC_KERNEL_SOURCE"] = place
        text = f'{_TEXT}#line 1 "{_MAIN}"\n{sources[_MAIN]}'.encode()
        module = library.bpf_module_create_c_from_string(text, 0, array, len(flags), True, None)  # noqa: FBT003 - C
    if not module:
        raise SystemExit(1)  # it has said why
    raw = _btf()
    types = btf.parse(raw)
    sections = {name: section for section, name in _PROGRAM.findall(sources[_MAIN])}
    entries = {name: _function(library, module, name) for name in sections}
    text_at = library.bpf_function_start(module, linker.FIRST.encode())
    programs = linker.link(
        entries, sections, lambda at: ctypes.string_at(text_at + at * linker.SIZE, linker.SIZE), types
    )
    for program in programs:
        linker.check_no_variables(program.code)
    once = {name for source in sources.values() for name in _CHECKED_ONCE.findall(source)}
    return Compiled(tuple(programs), btf.made_global(raw, types, once))


def _write(folder: Path, place: Path) -> dict[str, str]:
    """Write the sources as they are for the running kernel, and the headers that bcc asks for."""
    try:
        kernel = Kernel(btf.parse(VMLINUX.read_bytes()))
    except OSError as error:
        what = f"{VMLINUX} cannot be read: {error.strerror}"
        raise HostError(
            what, "bcc needs a kernel with CONFIG_DEBUG_INFO_BTF, as distributions have it"
        ) from None
    paths = sorted(folder.glob("*.[ch]"))
    sources = kernel.relocated({path.name: path.read_text(encoding="utf-8") for path in paths})
    if not {_MAIN, "types.h"} <= sources.keys():
        raise ObjectError(f"the sources of the programs are not in {folder}", "install the package again")
    tree = {f"include/{name}": text for name, text in _TREE.items()}
    tree["include/linux/types.h"] = sources["types.h"]
    for name, text in (sources | tree).items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return sources


def _library(distribution: str) -> Any:  # noqa: ANN401 - a ctypes library
    """Load libbcc by the distribution's own module, which knows its prototypes."""
    sys.path.insert(0, distribution)  # before PyPI's
    try:
        from bcc import lib  # noqa: PLC0415 - only in this process
    except (ImportError, OSError) as error:
        raise LibraryMissing(f"python3-bpfcc cannot be used: {error}", _APT) from None
    lib.bpf_function_start.restype = ctypes.c_void_p
    return lib


def _function(library: Any, module: int, name: str) -> bytes:  # noqa: ANN401 - a ctypes library
    start, size = (library.bpf_function_start, library.bpf_function_size)
    at = start(module, name.encode())
    if not at:
        raise ObjectError(f"bcc has not compiled the program {name}", f"see {_MAIN}: one program a SEC()")
    return ctypes.string_at(at, size(module, name.encode()))


def _btf() -> bytes:
    """Take the BTF from the kernel: bcc has loaded it, and says nothing of where."""
    for found in Path("/proc/self/fd").iterdir():
        if found.is_symlink() and str(found.readlink()) == "anon_inode:btf":
            return libbpf.btf_behind(int(found.name))
    raise ObjectError("the kernel has refused the type information of the programs", "use the engine libbpf")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
