"""libbpf.so.1 by ctypes: the only file that knows either.

Every refusal is a KernelError with libbpf's (and thereby the verifier's) last words. File descriptors
are plain ints that the caller closes.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import functools
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tracer.errors import KernelError, LibraryMissing
from tracer.host import lockdown

if TYPE_CHECKING:
    from collections.abc import Iterator

# enum bpf_map_update_elem flags, include/uapi/linux/bpf.h
ANY = 0
NOEXIST = 1
EXIST = 2
LINK_TYPE_CGROUP = 3  # enum bpf_link_type
ITERATOR = 28  # BPF_TRACE_ITER of enum bpf_attach_type
_SHOWN_LINES = 3
_READ_SIZE = 1 << 16
_NOISE = ("-- BEGIN", "-- END", "processed ", "verification time", "libbpf: failed to load object")

_void, _int, _u32, _text = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "bpf_link_create": (_int, _int, _int, _int, _void),
    "bpf_link_update": (_int, _int, _int, _void),
    "bpf_raw_tracepoint_open": (_int, _text, _int),
    "bpf_iter_create": (_int, _int),
    "bpf_enable_stats": (_int, _int),
    "bpf_obj_get": (_int, _text),
    "bpf_obj_pin": (_int, _int, _text),
    "bpf_obj_get_info_by_fd": (_int, _int, _void, _void),
    "bpf_prog_get_fd_by_id": (_int, _u32),
    "bpf_btf_get_fd_by_id": (_int, _u32),
    "bpf_map_lookup_elem": (_int, _int, _void, _void),
    "bpf_map_get_next_key": (_int, _int, _void, _void),
    "bpf_map_update_elem": (_int, _int, _void, _void, ctypes.c_uint64),
    "bpf_map_delete_elem": (_int, _int, _void),
    "bpf_prog_test_run_opts": (_int, _int, _void),
    "bpf_map_lookup_and_delete_elem": (_int, _int, _void, _void),
    "bpf_map_lookup_batch": (_int, _int, _void, _void, _void, _void, _void, _void),
}
_PRINT = ctypes.CFUNCTYPE(_int, _int, _text, _void)
_said: collections.deque[str] = collections.deque(maxlen=400)


class _RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts, bpf.h, up to its context's size."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("data_in", _void),
        ("data_out", _void),
        ("data_size_in", _u32),
        ("data_size_out", _u32),
        ("ctx_in", _void),
        ("ctx_out", _void),
        ("ctx_size_in", _u32),
        ("ctx_size_out", _u32),
    )


class MapShape(NamedTuple):
    """What must agree for a map to be taken over: enum bpf_map_type, bytes, entries, BPF_F_*."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class MapInfo(NamedTuple):
    """What the kernel says of a map: struct bpf_map_info."""

    id: int
    shape: MapShape
    btf_id: int


class LinkInfo(NamedTuple):
    """struct bpf_link_info: `cgroup_id` is 0 where the link is detached or not of a cgroup."""

    type: int
    id: int
    program_id: int
    cgroup_id: int


class ProgramInfo(NamedTuple):
    """struct bpf_prog_info: `runs` and `run_ns` count only while the kernel's BPF statistics are on."""

    id: int
    name: str
    runs: int
    run_ns: int


def _listen(_level: int, form: bytes, arguments: int) -> int:
    text = ctypes.create_string_buffer(1 << 14)
    _c().vsnprintf(text, len(text), form, ctypes.c_void_p(arguments))
    _said.extend(text.value.decode("utf-8", "replace").splitlines())
    return 0


_listener = _PRINT(_listen)  # kept: libbpf holds the pointer


@functools.cache
def _c() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.cache
def library() -> ctypes.CDLL:
    """Load the library, once; raises LibraryMissing."""
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise LibraryMissing(f"cannot load libbpf.so.1: {error}", "apt install libbpf1") from None
    declare(library, _PROTOTYPES)
    library.libbpf_set_print(_listener)
    return library


def declare(library: ctypes.CDLL, prototypes: dict[str, tuple[Any, ...]]) -> None:
    """Tell ctypes the functions' types: what comes back, and what goes in."""
    for name, (result, *arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def version() -> str:
    """Return which libbpf is loaded, such as v1.1; raises LibraryMissing."""
    tell = library().libbpf_version_string
    tell.restype = ctypes.c_char_p
    return f"libbpf {tell().decode()}"


def heard() -> collections.deque[str]:
    """Return the last lines that libbpf printed; whoever wants those of one call clears them first."""
    return _said


def last_words() -> str:
    """Return the last meaningful lines that libbpf printed, as one line."""
    lines = [line.strip() for line in _said]
    shown = [line for line in lines if line and not any(noise in line for noise in _NOISE)]
    return " | ".join(shown[-_SHOWN_LINES:])


def refused(what: str, code: int, *, hook: str = "", hint: str = "") -> KernelError:
    """Return the error for a refusal by the kernel."""
    reason = os.strerror(code)
    if code == errno.EPERM and lockdown.is_confidential():
        hint = lockdown.HINT
    elif code == errno.EPERM:
        hint = hint or "run it as root, or give it CAP_BPF"
    return KernelError(f"{what}: {reason}", hint, hook=hook, errno=code)


def call(what: str, name: str, *arguments: object, hook: str = "") -> int:
    """Call a libbpf function that returns a number or, as all do since 1.0, a negative errno."""
    result = getattr(library(), name)(*arguments)
    if result < 0:
        raise refused(what, -result, hook=hook)
    return int(result)


def link_cgroup(hook: str, program_fd: int, cgroup_fd: int, attach_type: int) -> int:
    """Attach a program to a cgroup beside all others; returns the link's descriptor."""
    what = f"the kernel refuses to attach {hook}"
    return call(what, "bpf_link_create", program_fd, cgroup_fd, attach_type, None, hook=hook)


def link_raw_tracepoint(hook: str, program_fd: int, tracepoint: str) -> int:
    """Attach a program to a raw tracepoint; returns the link's descriptor."""
    what = f"the kernel refuses to attach {hook}"
    return call(what, "bpf_raw_tracepoint_open", tracepoint.encode(), program_fd, hook=hook)


def link_iterator(hook: str, program_fd: int, attach_type: int) -> int:
    """Make the link by which an iterator program can be read; returns its descriptor."""
    what = f"the kernel refuses to attach {hook}"
    return call(what, "bpf_link_create", program_fd, 0, attach_type, None, hook=hook)


def link_update(hook: str, link_fd: int, program_fd: int) -> None:
    """Put another program behind an existing link, without a gap."""
    call(f"the kernel refuses to replace {hook}", "bpf_link_update", link_fd, program_fd, None, hook=hook)


def run_iterator(link_fd: int) -> bytes:
    """Run an iterator program from start to end and return what it wrote."""
    fd = call("cannot start an iterator", "bpf_iter_create", link_fd)
    parts = []
    try:
        while True:
            # EAGAIN: a million objects passed without output, kernel/bpf/bpf_iter.c
            with contextlib.suppress(BlockingIOError):
                parts.append(os.read(fd, _READ_SIZE))
                if not parts[-1]:
                    return b"".join(parts)
    except OSError as error:
        raise refused("an iterator failed", error.errno or 0) from None
    finally:
        os.close(fd)


def run_raw(program_fd: int, arguments: bytes) -> None:
    """Run a raw tracepoint's program once, with these bytes as its arguments (BPF_PROG_TEST_RUN, 5.10)."""
    options = _RunOptions(size=ctypes.sizeof(_RunOptions), ctx_size_in=len(arguments))
    options.ctx_in = ctypes.cast(ctypes.c_char_p(arguments), _void)
    call("cannot run a program", "bpf_prog_test_run_opts", program_fd, ctypes.byref(options))


def enable_statistics() -> int:
    """Let the kernel count runs and time of BPF programs while the returned descriptor is open."""
    return call("cannot enable BPF statistics", "bpf_enable_stats", 0)  # BPF_STATS_RUN_TIME


def pin(fd: int, path: Path) -> None:
    """Pin a map or link at `path`, in place of what is pinned there: never nothing in between."""
    fresh = path.with_name(f"{path.name}_new")
    fresh.unlink(missing_ok=True)
    call(f"cannot pin {path}", "bpf_obj_pin", fd, os.fsencode(fresh))
    fresh.rename(path)


def open_pin(path: Path) -> int | None:
    """Return a descriptor of what is pinned at `path`, None where there is nothing."""
    try:
        return call(f"cannot open {path}", "bpf_obj_get", os.fsencode(path))
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


def kind_of(fd: int) -> str:
    """Return `map`, `prog` or `link` for a descriptor that bpf(2) gave."""
    return Path(f"/proc/self/fd/{fd}").readlink().name.rpartition("bpf")[2].lstrip("-_")


def _info(
    fd: int, size: int, given: ctypes.Array[ctypes.c_char] | None = None
) -> ctypes.Array[ctypes.c_char]:
    answer = given or ctypes.create_string_buffer(size)
    length = ctypes.c_uint32(size)
    what = f"cannot ask the kernel about descriptor {fd}"
    call(what, "bpf_obj_get_info_by_fd", fd, answer, ctypes.byref(length))
    return answer


def map_info(fd: int) -> MapInfo:
    """Ask the kernel what a map is (offsets of struct bpf_map_info, include/uapi/linux/bpf.h)."""
    kind, number, *shape, btf_id = struct.unpack_from("<6I40xI", _info(fd, 80))
    return MapInfo(number, MapShape(kind, *shape), btf_id)


def link_info(fd: int) -> LinkInfo:
    """Ask the kernel what a link holds (offsets of struct bpf_link_info)."""
    kind, number, program, cgroup = struct.unpack_from("<3I4xQ", _info(fd, 32))
    return LinkInfo(kind, number, program, cgroup if kind == LINK_TYPE_CGROUP else 0)


def program_info(fd: int) -> ProgramInfo:
    """Ask the kernel how often a program ran (offsets of struct bpf_prog_info)."""
    answer = _info(fd, 216)
    name = answer.raw[64:80].split(b"\0", 1)[0].decode("utf-8", "replace")
    run_ns, runs = struct.unpack_from("<2Q", answer, 192)
    return ProgramInfo(struct.unpack_from("<I", answer, 4)[0], name, runs, run_ns)


def program_of(program_id: int) -> int:
    """Return a descriptor of the program with this id; needs CAP_SYS_ADMIN."""
    return call(f"cannot open program {program_id}", "bpf_prog_get_fd_by_id", program_id)


def btf_of(btf_id: int) -> bytes:
    """Return the BTF that the kernel keeps under this id; needs CAP_SYS_ADMIN."""
    fd = call(f"cannot open BTF {btf_id}", "bpf_btf_get_fd_by_id", btf_id)
    try:
        return btf_behind(fd)
    finally:
        os.close(fd)


def btf_behind(fd: int) -> bytes:
    """Return the BTF behind a descriptor (struct bpf_btf_info)."""
    (size,) = struct.unpack_from("<I", _info(fd, 32), 8)
    data = ctypes.create_string_buffer(size)
    asked = ctypes.create_string_buffer(32)
    struct.pack_into("<QI", asked, 0, ctypes.addressof(data), size)
    _info(fd, 32, asked)
    return data.raw


def push_queue(fd: int, number: int) -> None:
    """Push a 32-bit number."""
    value = ctypes.c_uint32(number)
    call("cannot push to a queue", "bpf_map_update_elem", fd, None, ctypes.byref(value), ANY)


def pop_queue(fd: int) -> int | None:
    """Pop a 32-bit number; None where the queue is empty."""
    value = ctypes.c_uint32()
    with _absent_is_none():
        call("cannot pop a queue", "bpf_map_lookup_and_delete_elem", fd, None, ctypes.byref(value))
        return value.value
    return None


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return the value of `key`, None where there is none."""
    value = ctypes.create_string_buffer(value_size)
    with _absent_is_none():
        call("cannot read a map", "bpf_map_lookup_elem", fd, key, value)
        return value.raw
    return None


def update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> bool:
    """Write `value` under `key`; False where NOEXIST finds the key taken, or EXIST finds none."""
    try:
        call("cannot write a map", "bpf_map_update_elem", fd, key, value, flags)
    except KernelError as error:
        if error.errno == {NOEXIST: errno.EEXIST, EXIST: errno.ENOENT}.get(flags):
            return False
        raise
    return True


def delete(fd: int, key: bytes) -> bool:
    """Delete `key`; False where there is none."""
    with _absent_is_none():
        call("cannot delete from a map", "bpf_map_delete_elem", fd, key)
        return True
    return False


def keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Yield all keys; an entry that appears or goes meanwhile may be missed or met twice."""
    at: bytes | None = None
    while True:
        following = ctypes.create_string_buffer(key_size)
        with _absent_is_none():
            call("cannot walk a map", "bpf_map_get_next_key", fd, at, following)
            at = following.raw
            yield at
            continue
        return


@contextlib.contextmanager
def _absent_is_none() -> Iterator[None]:
    try:
        yield
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise


def batches(fd: int, key_size: int, value_size: int, count: int = 4096) -> Iterator[tuple[bytes, bytes]]:
    """Yield all entries of a hash or an array as (keys, values), many at once (BPF_MAP_LOOKUP_BATCH, 5.6).

    The kernel walks bucket by bucket under the bucket's lock: an entry that stays is met exactly once.
    A bucket that does not fit (ENOSPC) is asked for again with more room.
    """
    position, mark = ctypes.create_string_buffer(8), None
    while True:
        found = ctypes.c_uint32(count)
        keys_, values = (
            ctypes.create_string_buffer(key_size * count),
            ctypes.create_string_buffer(value_size * count),
        )
        function = library().bpf_map_lookup_batch
        result = function(fd, mark, position, keys_, values, ctypes.byref(found), None)
        code = -result
        if code == errno.ENOSPC:
            count *= 2
            continue
        if code not in {0, errno.ENOENT}:
            raise refused("cannot read a map", code)
        yield keys_.raw[: key_size * found.value], values.raw[: value_size * found.value]
        if code:
            return
        mark = position
