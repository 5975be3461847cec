"""Two ways of loading, one interface: a compiled object by libbpf's loader, and what bcc compiled by our own.

Both are set up, loaded, asked for their descriptors (which they own), and closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
from typing import TYPE_CHECKING

from tracer.bpf import btf, libbpf
from tracer.bpf.libbpf import MapShape, call, declare, library, refused
from tracer.bpf.loader import linker
from tracer.errors import ObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.bpf.loader.linker import Program
    from tracer.errors import KernelError
_FAILED_PROGRAM = re.compile(r"prog '([^']+)': (?:failed to load|BPF program load failed)")
_LICENSE = b"Dual BSD/GPL"  # as in bpf/tattle.bpf.c
_LOG_ROOM = 1 << 24
_void, _int, _u32, _text = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p
_PROTOTYPES = {
    "bpf_object__open_mem": (_void, _void, ctypes.c_size_t, _void),
    "bpf_object__load": (_int, _void),
    "bpf_object__close": (None, _void),
    "bpf_object__next_program": (_void, _void, _void),
    "bpf_object__next_map": (_void, _void, _void),
    "bpf_program__name": (_text, _void),
    "bpf_program__fd": (_int, _void),
    "bpf_program__expected_attach_type": (_int, _void),
    "bpf_program__set_autoload": (_int, _void, ctypes.c_bool),
    "bpf_map__name": (_text, _void),
    "bpf_map__fd": (_int, _void),
    "bpf_map__type": (_int, _void),
    "bpf_map__key_size": (_u32, _void),
    "bpf_map__value_size": (_u32, _void),
    "bpf_map__max_entries": (_u32, _void),
    "bpf_map__map_flags": (_u32, _void),
    "bpf_map__is_internal": (ctypes.c_bool, _void),
    "bpf_map__set_max_entries": (_int, _void, _u32),
    "bpf_map__reuse_fd": (_int, _void, _int),
    "bpf_btf_load": (_int, _void, ctypes.c_size_t, _void),
    "bpf_map_create": (_int, _int, _text, _u32, _u32, _u32, _void),
    "bpf_prog_load": (_int, _int, _text, _text, _void, ctypes.c_size_t, _void),
    "libbpf_prog_type_by_name": (_int, _text, _void, _void),
    "libbpf_find_vmlinux_btf_id": (_int, _text, _int),
}


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts, libbpf.h, as far as we use it."""

    _fields_ = (("size", ctypes.c_size_t), ("object_name", _text))


class _MapOptions(ctypes.Structure):
    """struct bpf_map_create_opts, bpf.h, up to the flags."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("btf", _u32),
        ("btf_key", _u32),
        ("btf_value", _u32),
        ("btf_vmlinux_value", _u32),
        ("inner_map", _u32),
        ("flags", _u32),
    )


class _ProgramOptions(ctypes.Structure):
    """struct bpf_prog_load_opts, bpf.h, up to the log."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("attempts", _int),
        ("expected_attach_type", _int),
        ("btf", _u32),
        ("flags", _u32),
        ("ifindex", _u32),
        ("kern_version", _u32),
        ("attach_btf_id", _u32),
        ("attach_program", _u32),
        ("attach_btf", _u32),
        ("descriptors", _void),
        ("functions", _void),
        ("function_count", _u32),
        ("function_size", _u32),
        ("lines", _void),
        ("line_count", _u32),
        ("line_size", _u32),
        ("log_level", _u32),
        ("log_size", _u32),
        ("log", _void),
    )


class ObjectFile:
    """A compiled object, opened by libbpf."""

    def __init__(self, elf: bytes, name: str) -> None:
        declare(library(), _PROTOTYPES)
        libbpf.heard().clear()
        self._bytes = elf  # libbpf reads from here until load
        options = _OpenOptions(ctypes.sizeof(_OpenOptions), name.encode())
        self._object = library().bpf_object__open_mem(elf, len(elf), ctypes.byref(options))
        if not self._object:
            code = os.strerror(ctypes.get_errno())
            mend = "build it again (make bpf) or install the package again"
            raise ObjectError(
                f"libbpf cannot open the compiled programs: {code}: {libbpf.last_words()}", mend
            )
        self._programs = dict(self._walk("program"))
        self._maps = dict(self._walk("map"))

    def _walk(self, kind: str) -> Iterator[tuple[str, int]]:
        lib = library()
        step, name = getattr(lib, f"bpf_object__next_{kind}"), getattr(lib, f"bpf_{kind}__name")
        at = step(self._object, None)
        while at:
            yield name(at).decode(), at
            at = step(self._object, at)

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of all programs."""
        return tuple(self._programs)

    @property
    def maps(self) -> dict[str, MapShape]:
        """The maps that the source declares, not those that the compiler makes for its constants."""
        lib = library()
        return {
            name: MapShape(
                lib.bpf_map__type(at),
                lib.bpf_map__key_size(at),
                lib.bpf_map__value_size(at),
                lib.bpf_map__max_entries(at),
                lib.bpf_map__map_flags(at),
            )
            for name, at in self._maps.items()
            if not lib.bpf_map__is_internal(at)
        }

    def leave_out(self, program: str) -> None:
        """Do not load `program`."""
        call(f"cannot leave out {program}", "bpf_program__set_autoload", self._programs[program], 0)

    def resize(self, name: str, entries: int) -> None:
        """Set the map's max_entries (bytes, for a ring buffer)."""
        call(f"cannot resize map {name}", "bpf_map__set_max_entries", self._maps[name], entries)

    def reuse(self, name: str, fd: int) -> None:
        """Use the existing map `fd` instead of a new one; the descriptor is duplicated."""
        call(f"cannot take over map {name}", "bpf_map__reuse_fd", self._maps[name], fd)

    def load(self) -> None:
        """Create the maps and load the programs; KernelError.hook names the program refused."""
        libbpf.heard().clear()
        result = library().bpf_object__load(self._object)
        if not result:
            return
        hooks = [found[1] for line in libbpf.heard() if (found := _FAILED_PROGRAM.search(line))]
        hook = hooks[0] if hooks else ""
        raise _refused_program(hook, -result)

    def program_fd(self, name: str) -> int:
        """Return the descriptor of a loaded program."""
        return int(library().bpf_program__fd(self._programs[name]))

    def attach_type(self, name: str) -> int:
        """Return the enum bpf_attach_type that the program's section asks for."""
        return int(library().bpf_program__expected_attach_type(self._programs[name]))

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a created map."""
        return int(library().bpf_map__fd(self._maps[name]))

    def close(self) -> None:
        """Free the object and its descriptors; what is linked or pinned lives on."""
        if self._object:
            library().bpf_object__close(self._object)
            self._object = None


class Assembled:
    """What bcc compiled (tracer/bpf/loader/bcc.py): maps are made and programs loaded one by one."""

    def __init__(self, programs: tuple[Program, ...], raw: bytes) -> None:
        declare(library(), _PROTOTYPES)
        types = btf.parse(raw)
        self._raw = raw
        self._programs = {program.name: program for program in programs}
        self._rows = {row.name: row for row in linker.maps(types)}
        self._sizes = {row.name: linker.sizes(types, row) for row in self._rows.values()}
        self._functions = {
            found.name: number for number, found in enumerate(types.types) if found.kind is btf.Kind.FUNC
        }
        self._resources = contextlib.ExitStack()
        self._map_fds: dict[str, int] = {}
        self._program_fds: dict[str, int] = {}

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of all programs."""
        return tuple(self._programs)

    @property
    def maps(self) -> dict[str, MapShape]:
        """The maps that the sources declare."""
        return {
            name: MapShape(row.type, *self._sizes[name], row.entries, row.flags)
            for name, row in self._rows.items()
        }

    def leave_out(self, program: str) -> None:
        """Do not load `program`."""
        del self._programs[program]

    def resize(self, name: str, entries: int) -> None:
        """Set the map's max_entries (bytes, for a ring buffer)."""
        self._rows[name] = self._rows[name]._replace(entries=entries)

    def reuse(self, name: str, fd: int) -> None:
        """Use the existing map `fd` instead of a new one; the descriptor is duplicated."""
        self._map_fds[name] = self._own(os.dup(fd))

    def load(self) -> None:
        """Create the maps and load the programs; KernelError.hook names the program refused."""
        fd = self._own(
            call("cannot load the type information", "bpf_btf_load", self._raw, len(self._raw), None)
        )
        for name in self._rows.keys() - self._map_fds.keys():
            self._map_fds[name] = self._own(self._make_map(name, fd))
        numbered = {row.number: self._map_fds[name] for name, row in self._rows.items()}
        for name, program in self._programs.items():
            self._program_fds[name] = self._own(self._load_program(program, numbered, fd))

    def _own(self, fd: int) -> int:
        self._resources.callback(os.close, fd)
        return fd

    def _make_map(self, name: str, types: int) -> int:
        row, shape = self._rows[name], self.maps[name]
        options = _MapOptions(size=ctypes.sizeof(_MapOptions), flags=row.flags)
        if row.key:  # rings and queues have no keys, and then the kernel wants no types
            options.btf, options.btf_key, options.btf_value = types, row.key, row.value
        sizes = (shape.key_size, shape.value_size, shape.max_entries)
        what = f"the kernel refuses the map {name}"
        return call(what, "bpf_map_create", shape.type, name.encode(), *sizes, ctypes.byref(options))

    def _load_program(self, program: Program, maps: dict[int, int], types: int) -> int:
        """Load one; where it is refused once more, to hear why."""
        starts = [(0, program.name), *program.functions]
        functions = b"".join(struct.pack("<II", at, self._functions[name]) for at, name in starts)
        kind, attach_type = _kind_of(program)
        options = _ProgramOptions(
            size=ctypes.sizeof(_ProgramOptions),
            expected_attach_type=attach_type,
            btf=types,
            attach_btf_id=_attach_btf(program, attach_type),
            functions=ctypes.cast(ctypes.c_char_p(functions), _void),
            function_count=len(starts),
            function_size=len(functions) // len(starts),
        )
        code = linker.with_maps(program.code, maps)
        words = (
            kind,
            program.name.encode(),
            _LICENSE,
            code,
            len(code) // linker.SIZE,
            ctypes.byref(options),
        )
        fd = library().bpf_prog_load(*words)
        if fd >= 0:
            return int(fd)
        log = ctypes.create_string_buffer(_LOG_ROOM)
        options.log_level, options.log_size, options.log = 1, len(log), ctypes.cast(log, _void)
        library().bpf_prog_load(*words)
        libbpf.heard().clear()
        libbpf.heard().extend(log.value.decode("utf-8", "replace").splitlines())
        raise _refused_program(program.name, -fd)

    def program_fd(self, name: str) -> int:
        """Return the descriptor of a loaded program."""
        return self._program_fds[name]

    def attach_type(self, name: str) -> int:
        """Return the enum bpf_attach_type that the program's section asks for."""
        return _kind_of(self._programs[name])[1]

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a created map."""
        return self._map_fds[name]

    def close(self) -> None:
        """Close all descriptors; what is linked or pinned lives on."""
        self._resources.close()


def _kind_of(program: Program) -> tuple[int, int]:
    """Return what libbpf makes of a section's name: enum bpf_prog_type and bpf_attach_type."""
    kind, attach_type = ctypes.c_int(), ctypes.c_int()
    section, found = program.section.encode(), (ctypes.byref(kind), ctypes.byref(attach_type))
    call(f"{program.name} stands in a section unknown to libbpf", "libbpf_prog_type_by_name", section, *found)
    return kind.value, attach_type.value


def _attach_btf(program: Program, attach_type: int) -> int:
    """Return the kernel's type that an iterator belongs to; 0 for all other programs."""
    if attach_type != libbpf.ITERATOR:
        return 0
    name = program.section.partition("/")[2].encode()
    return call("this kernel has no such iterator", "libbpf_find_vmlinux_btf_id", name, attach_type)


def _refused_program(hook: str, code: int) -> KernelError:
    what = f"the kernel refuses the program {hook}" if hook else "the kernel refuses the programs"
    refusal = refused(what, code, hook=hook, hint=f"--allow-missing {hook}" if hook else "")
    refusal.message = f"{refusal.message}: {libbpf.last_words()}"
    return refusal
