"""Load the BPF object without the project's own loader, and say what the verifier answers.

Independent of tracer/bpf/libbpf.py on purpose, so that a refusal can be told from a fault of the loader.
"""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

OBJECT = b"/project/tracer/objects/tattle.bpf.o"
LAST_LINES = 25
PRINTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

libc = ctypes.CDLL(None)
libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
for _function in ("bpf_object__open_file", "bpf_object__next_program"):
    getattr(libbpf, _function).restype = ctypes.c_void_p
libbpf.bpf_program__name.restype = ctypes.c_char_p

_said: list[str] = []


@PRINTER
def _print(_level: int, form: bytes, arguments: int) -> int:
    text = ctypes.create_string_buffer(1 << 20)
    libc.vsnprintf(text, len(text), form, ctypes.c_void_p(arguments))
    _said.extend(text.value.decode(errors="replace").splitlines())
    return 0


def check_object() -> dict[str, Any]:
    """Give `loaded` (all at once), and for each refused program the verifier's last lines."""
    libbpf.libbpf_set_print(_print)
    error, said = _load(lambda _name: True)
    if not error:
        return {"loaded": True, "programs": program_names(), "refused": {}, "said": []}
    refused = {}
    for name in program_names():
        alone, words = _load(lambda other, name=name: other == name)
        if alone:
            refused[name] = words[-LAST_LINES:]
    return {"loaded": False, "programs": program_names(), "refused": refused, "said": said[-LAST_LINES:]}


def program_names() -> list[str]:
    """Give the names of the object's programs, without loading it."""
    handle = _open()
    names = [libbpf.bpf_program__name(program).decode() for program in _programs(handle)]
    libbpf.bpf_object__close(handle)
    return names


def _load(wanted: Callable[[str], bool]) -> tuple[int, list[str]]:
    handle = _open()
    for program in _programs(handle):
        libbpf.bpf_program__set_autoload(program, wanted(libbpf.bpf_program__name(program).decode()))
    _said.clear()
    error = libbpf.bpf_object__load(handle)
    libbpf.bpf_object__close(handle)
    return error, list(_said)


def _open() -> ctypes.c_void_p:
    handle = libbpf.bpf_object__open_file(OBJECT, None)
    if not handle:
        raise OSError(ctypes.get_errno(), f"cannot open {OBJECT.decode()}: {_said[-3:]}")
    return ctypes.c_void_p(handle)


def _programs(handle: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    program = libbpf.bpf_object__next_program(handle, None)
    while program:
        yield ctypes.c_void_p(program)
        program = libbpf.bpf_object__next_program(handle, ctypes.c_void_p(program))


def leftovers() -> dict[str, int]:
    """Count the BPF programs and links that live in this kernel."""
    return {kind: _count(getattr(libbpf, f"bpf_{kind}_get_next_id")) for kind in ("prog", "link")}


def _count(following: Any) -> int:  # noqa: ANN401 - ctypes has no better type for a foreign function
    number, found = ctypes.c_uint32(0), 0
    while following(number, ctypes.byref(number)) == 0:
        found += 1
    return found
