"""Sources for a kernel: its offsets in them, or a refusal that names what it has not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tracer.bpf import btf
from tracer.bpf.abi import elf_section
from tracer.bpf.engine import OBJECT
from tracer.bpf.loader import relocate
from tracer.bpf.loader.relocate import Kernel
from tracer.errors import KernelError, ObjectError

# The object describes the kernel's structures by the fields that it reads, in the order of bpf/kernel.h:
# a kernel with small structures.
KERNEL = Kernel(btf.parse(elf_section(OBJECT.read_bytes(), ".BTF")))
BPF = Path(__file__).resolve().parents[4] / "bpf"


def described(*lines: str) -> str:
    """Give a source that describes kernel structures by these lines."""
    push = "#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)"
    return "\n".join(["before();", push, *lines, "#pragma clang attribute pop", "after();", ""])


def relocated(*texts: str) -> str:
    """Give sources as they are for this kernel, one behind the other."""
    return "".join(KERNEL.relocated({str(number): text for number, text in enumerate(texts)}).values())


def structure(name: str, *fields: str) -> str:
    """Give the description of a structure."""
    return "\n".join([f"struct {name} {{", *(f"\t{field};" for field in fields), "};"])


def test_a_field_stands_where_the_kernel_has_it(tmp_path: Path) -> None:
    """Whatever the order in the source: a compiler finds each at the kernel's offset."""
    text = relocated(
        described(
            "struct dentry;",
            structure("qstr", "const unsigned char *name"),
            structure("vfsmount", "struct dentry *mnt_root"),
        )
    )
    assert "before();" in text
    assert "after();" in text
    check = '_Static_assert(__builtin_offsetof(struct qstr, name) == 8, "");'
    source = tmp_path / "one.c"
    source.write_text(text.replace("before();", "").replace("after();", "") + check)
    subprocess.run(["clang", "-fsyntax-only", str(source)], check=True)


def test_all_our_sources_can_be_relocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line between the pragmas is one that is understood, wherever a kernel has the fields."""
    monkeypatch.setattr(Kernel, "_place", lambda *_: relocate._Place(0, 8))
    for path in BPF.glob("*.[ch]"):
        text = relocated(path.read_text())
        assert "preserve_access_index" not in text or path.name == "kernel.h"  # there a comment speaks of it
        assert "bpf_core_type_exists(struct" not in text


@pytest.mark.parametrize(
    ("name", "field", "words"),
    [
        ("qstr", "__u32 hash", "qstr.hash"),
        ("nobody", "int x", "nobody.x"),
        ("qstr___old", "int gone", "qstr.gone"),
    ],
)
def test_what_the_kernel_has_not_is_named(name: str, field: str, words: str) -> None:
    """No program is better than one that reads beside it."""
    with pytest.raises(KernelError, match=words):
        relocated(described(structure(name, field)))


def test_a_field_of_another_size_is_refused(tmp_path: Path) -> None:
    """The compiler stops: `len` has 4 bytes here."""
    source = tmp_path / "one.c"
    text = relocated(described(structure("qstr", "unsigned long long len")))
    source.write_text(text.replace("before();", "").replace("after();", ""))
    done = subprocess.run(
        ["clang", "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "this kernel has another qstr.len" in done.stderr


def test_questions_are_answered() -> None:
    """A type or a number that is there, or not; what is not there may be described, since nobody reads it."""
    asked = "bpf_core_type_exists(struct {}) bpf_core_enum_value_exists(enum bpf_func_id, {})\n"
    there = asked.format("task_struct", "BPF_FUNC_get_current_task_btf")
    assert relocated(there) == "1 1\n"
    gone = asked.format("nobody", "BPF_FUNC_nothing")
    assert relocated(gone) == "0 0\n"
    both = relocated(described(structure("nobody", "int x")), gone)  # one asks, another describes
    assert "struct nobody {\n\tint x;\n};" in both


def test_a_line_that_is_not_understood_is_refused() -> None:
    """Two fields in a line, say."""
    with pytest.raises(ObjectError, match="one field a line"):
        relocated(described("struct qstr {\n\t__u32 len, hash; /* two */\n};"))
