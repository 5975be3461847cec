"""The programs that an engine loads: made by one of two engines, loaded with what the kernel takes of them.

libbpf relocates the compiled object; bcc compiles the sources (bpf/) on this host. Both give the same
programs, maps and structures, so each takes over what the other has pinned.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tracer.bpf import libbpf
from tracer.bpf.abi import Abi
from tracer.bpf.loader.object import Assembled, ObjectFile
from tracer.errors import AbiError, KernelError, ObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from tracer.bpf.libbpf import MapShape


class Loadable(Protocol):
    """What is set up, loaded, and then asked for its descriptors, which it owns."""

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of all programs."""

    @property
    def maps(self) -> dict[str, MapShape]:
        """The maps that the sources declare."""

    def leave_out(self, program: str) -> None:
        """Do not load `program`."""

    def resize(self, name: str, entries: int) -> None:
        """Set the map's max_entries (bytes, for a ring buffer)."""

    def reuse(self, name: str, fd: int) -> None:
        """Use the existing map `fd` instead of a new one; the descriptor is duplicated."""

    def load(self) -> None:
        """Create the maps and load the programs; KernelError.hook names the program refused."""

    def program_fd(self, name: str) -> int:
        """Return the descriptor of a loaded program."""

    def attach_type(self, name: str) -> int:
        """Return the enum bpf_attach_type that the program's section asks for."""

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a created map."""

    def close(self) -> None:
        """Free all descriptors; what is linked or pinned lives on."""


class Programs(NamedTuple):
    """What an engine has made: structures, a checksum of it, and how to open it (anew for each try)."""

    abi: Abi
    sha256: str
    open: Callable[[], Loadable]


class Loaded(NamedTuple):
    """What the kernel has taken; `adopted`: with a predecessor's maps."""

    object: Loadable
    programs: tuple[str, ...]
    adopted: bool


def choose(engine: str, object_path: Path) -> Programs:
    """Let an engine make the programs; HostError or ObjectError where it cannot."""
    if engine == "bcc":
        from tracer.bpf.loader import bcc  # noqa: PLC0415 - nobody else needs it

        made = bcc.compiled()
        code = b"".join(program.code for program in made.programs) + made.btf
        return Programs(Abi.from_btf(made.btf), _sha256(code), lambda: Assembled(made.programs, made.btf))
    elf = _read_object(object_path)
    return Programs(Abi.from_object(elf), _sha256(elf), lambda: ObjectFile(elf, "tattle"))


def load(
    chosen: Programs,
    sizes: Mapping[str, int],
    allowed: Collection[str],
    hooks: Mapping[str, str],
    old: dict[str, int],
) -> Loaded:
    """Load, leaving out what the kernel refuses as long as its hook is `allowed` to be missing.

    `hooks` names the hook of each program, `sizes` the entries of maps; `old` are a predecessor's maps.
    """
    left_out: set[str] = set()
    while True:
        opened = chosen.open()
        try:
            return _try_load(opened, chosen.abi, sizes, old, left_out)
        except KernelError as error:
            opened.close()
            if hooks.get(error.hook, error.hook) not in allowed or error.hook in left_out:
                raise
            left_out.add(error.hook)
        except BaseException:
            opened.close()
            raise


def _try_load(
    opened: Loadable, abi: Abi, sizes: Mapping[str, int], old: dict[str, int], left_out: set[str]
) -> Loaded:
    names = tuple(name for name in opened.programs if name not in left_out)
    for program in left_out:
        opened.leave_out(program)
    for name in opened.maps.keys() & sizes.keys():
        opened.resize(name, sizes[name])
    adopted = _is_heir(opened, abi, old)
    if adopted:
        for name in opened.maps:
            opened.reuse(name, old[name])
    opened.load()
    return Loaded(opened, names, adopted)


def _is_heir(opened: Loadable, abi: Abi, old: dict[str, int]) -> bool:
    """Say whether the predecessor's maps are just those that we would make."""
    wanted = opened.maps
    if not wanted.keys() <= old.keys():
        return False
    if any(libbpf.map_info(old[name]).shape != shape for name, shape in wanted.items()):
        return False
    try:
        return abi_of(old) == abi
    except (AbiError, ObjectError):
        return False


def abi_of(maps: dict[str, int]) -> Abi:
    """Return the structures of maps that are there, by what the kernel keeps of their types."""
    return Abi.from_btf(libbpf.btf_of(libbpf.map_info(maps["flows"]).btf_id))


def _read_object(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        mend = "build it (make bpf) or install the package again"
        raise ObjectError(f"cannot read the compiled programs {path}: {error.strerror}", mend) from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
