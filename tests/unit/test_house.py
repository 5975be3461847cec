"""The house keeps its order: arrows point one way, layouts stand once, kernel tests never skip."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sorted([*ROOT.glob("tracer/**/*.py"), *ROOT.glob("exporters/**/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))
ABI = (ROOT / "bpf" / "abi.h").read_text()

# Bytes in, values out: what they may not know of. `os` is the world; `time` is a clock.
PURE = {"btf", "decode", "identity", "names", "scope", "policy", "namerules", "rules"}
PURE |= {"report", "places", "suggest", "when"}
PURE |= {"purposes", "canonical", "evidence", "dns", "hello", "naming", "quic", "stream"}
PURE |= {"relocate", "linking"}
IMPURE = {"os", "time", "pathlib", "socket", "subprocess", "ctypes", "mmap", "select", "threading", "logging"}
PURE_OF_SOCKET = {"AF_INET", "AF_INET6", "inet_ntop", "inet_pton"}  # addresses from and to text

# From the bottom up; a module may import from floors below its own and from its own floor. What is not
# named here stands on the top floor: commands and the daemon, which compose the rest.
FLOORS = (
    {"tracer.errors", "tracer"},
    {f"tracer.{name}" for name in PURE},
    {
        "tracer.bpf.abi",
        "tracer.bpf.libbpf",
        "tracer.bpf.loader.object",
        "tracer.bpf.loader.bcc",
        "tracer.host.cgroups",
        "tracer.host.capabilities",
        "tracer.host.files",
        "tracer.host.syscalls",
    },
    {"tracer.bpf.maps.tables", "tracer.bpf.ringbuf", "tracer.bpf.samples"},
    {
        f"tracer.{name}"
        for name in (
            "registry",
            "containers",
            "cri",
            "targets",
            "runtimes",
            "recognize",
            "inventory",
            "config",
            "enforce",
            "saved",
            "history",
            "recall",
        )
    },
    {"tracer.bpf.engine", "tracer.bpf.loader.programs"},
)
# libbpf is known to two files, bcc to one; the others make one system call each that the standard library
# lacks (capset, mount, pidfd_getfd).
KNOW_CTYPES = {"libbpf", "loading", "bcc", "capabilities", "hostfs", "inventory", "syscalls"}


def name_of(path: Path) -> str:
    """Give the module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class WithoutTypes(ast.NodeTransformer):
    """Leaves out `if TYPE_CHECKING:`, which is no arrow: nothing is imported when the program runs."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Drop the block, look into all others."""
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imports(path: Path) -> Iterator[str]:
    """Yield every module that `path` imports, late imports included."""
    for node in ast.walk(WithoutTypes().visit(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "socket" and {alias.name for alias in node.names} <= PURE_OF_SOCKET:
                continue
            yield from (found(node.module or "", alias.name) for alias in node.names)


def found(module: str, name: str) -> str:
    """Tell `from tracer import maps` (a module) from `from tracer.bpf.maps.tables import Maps` (a name in one)."""
    inner = ROOT.joinpath(*module.split("."), f"{name}.py")
    return f"{module}.{name}" if inner.exists() else module


def floor(module: str) -> int:
    """Give the floor of a tracer module; the top one for commands and the daemon."""
    return next((level for level, names in enumerate(FLOORS) if module in names), len(FLOORS))


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_arrows_point_down(path: Path) -> None:
    """Commands -> engine -> maps -> abi: nothing knows of what is built on top of it."""
    module = name_of(path)
    if not module.startswith("tracer"):
        return
    above = {to for to in imports(path) if to.startswith("tracer") and floor(to) > floor(module)}
    assert not above, f"{module} imports {above} from a floor above its own"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_exporters_know_no_engine(path: Path) -> None:
    """Exporters read what they are given; only the top floor of tracer imports them."""
    module, known = name_of(path), set(imports(path))
    if module.startswith("exporters"):
        top = {to for to in known if to.startswith("tracer") and floor(to) >= floor("tracer.bpf.engine")}
        assert not top, f"{module} knows {top}"
    elif floor(module) < len(FLOORS):
        assert not {to for to in known if to.startswith("exporters")}


@pytest.mark.parametrize("path", [path for path in PYTHON if path.stem in PURE], ids=name_of)
def test_pure_modules_touch_nothing(path: Path) -> None:
    """Policy, names and decoding know no kernel, no clock and no file."""
    roots = {module.split(".")[0] for module in imports(path)}
    assert not roots & IMPURE, f"{path.name} imports {roots & IMPURE}"
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not [
        call for call in calls if isinstance(call, ast.Name) and call.id in {"open", "print", "input"}
    ]


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_ctypes_stay_behind_one_door(path: Path) -> None:
    """Whoever reads the engine meets functions and values, no pointers."""
    if "ctypes" in {module.split(".")[0] for module in imports(path)}:
        assert path.stem in KNOW_CTYPES, f"{path.name} uses ctypes"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_dependencies_are_the_declared_ones(path: Path) -> None:
    """What is imported is the standard library or stands in pyproject.toml."""
    declared = {"argcomplete", "cryptography", "dnslib", "msgspec", "prometheus_client"}
    declared |= {"rich", "rich_argparse", "tracer", "exporters"}
    declared |= {"bcc"} if path.stem == "bcc" else set()  # the distribution's, where it is installed
    roots = {module.split(".")[0] for module in imports(path)}
    assert not roots - declared - sys.stdlib_module_names


def abi_numbers() -> set[str]:
    """Give the name of every enumerator in abi.h."""
    bodies = re.findall(r"enum \w+ \{(.*?)\};", re.sub(r"/\*.*?\*/", "", ABI, flags=re.DOTALL), re.DOTALL)
    return {
        name for body in bodies for name in re.findall(r"\b([A-Z][A-Z0-9_]+)\b(?:\s*=[^,]*)?(?:,|\s*$)", body)
    }


def test_the_abi_is_found() -> None:
    """The checks below would pass on an empty list."""
    assert {"EVENT_CONNECT", "EVENT_ESTABLISHED", "LOSS_RING_FULL", "LOSS_REASONS"} <= abi_numbers()


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_python_repeats_no_number_of_the_abi(path: Path) -> None:
    """Numbers come from the BTF of the object that is loaded, so the two halves cannot differ."""
    numbers = abi_numbers()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            assert not names & numbers, f"{path.name}:{node.lineno} repeats {names & numbers} of abi.h"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_python_repeats_no_layout_of_the_abi(path: Path) -> None:
    """Long struct formats are made from BTF; only the format of BTF itself is written out."""
    if path.stem == "btf":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("struct."):
            literal = node.args[0] if node.args else None
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                assert len(re.findall("[a-zA-Z?]", literal.value)) <= 6, f"{path.name}:{node.lineno}"


def test_c_defines_shared_types_once() -> None:
    """A struct or a number of abi.h is declared in abi.h and nowhere else in bpf/."""
    structs = set(re.findall(r"^struct (\w+) \{", ABI, re.MULTILINE))
    for path in ROOT.glob("bpf/*.[ch]"):
        if path.name != "abi.h":
            text = path.read_text()
            again = structs & set(re.findall(r"^struct (\w+) \{", text, re.MULTILINE))
            again |= abi_numbers() & set(re.findall(r"^#define\s+(\w+)", text, re.MULTILINE))
            assert not again, f"{path.name} repeats {again}"


def test_abi_has_no_number_that_btf_cannot_show() -> None:
    """A #define is not in BTF: only the include guard and the size check are ones."""
    assert set(re.findall(r"^#define\s+(\w+)", ABI, re.MULTILINE)) == {"TATTLE_ABI_H", "ABI_SIZE"}


def test_folders_are_those_of_the_design() -> None:
    """Whoever looks for a thing finds it where the README says."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders - {"build", "dist", "tattle.egg-info"} <= {"bpf", "tracer", "exporters", "tests", "deploy"}
    kinds = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("*.*"))}
    assert kinds - {"__pycache__"} <= {"unit", "kernel", "vm", "bench", "world", "deploy"}


@pytest.mark.parametrize("folder", ["bpf", "tracer", "exporters", "tests", "deploy"])
def test_each_folder_says_what_it_holds(folder: str) -> None:
    """A README each, with every file at the top of the folder in it by name."""
    text = (ROOT / folder / "README.md").read_text()
    files = {path.name for path in (ROOT / folder).iterdir() if path.is_file() and path.suffix != ".pyc"}
    unsaid = {name for name in files - {"README.md", "__init__.py"} if name not in text}
    assert not unsaid, f"{folder}/README.md does not speak of {sorted(unsaid)}"


def skips(path: Path) -> Iterator[str]:
    """Yield whatever in `path` could make a test not run."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in {"skip", "skipif", "xfail", "importorskip"}:
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_nothing_is_skipped(path: Path) -> None:
    """A skipped kernel test is a promise that nobody checks."""
    assert not list(skips(path))


@pytest.mark.parametrize("path", [*PYTHON, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    """Split by noun before 500 lines."""
    assert len(path.read_text().splitlines()) < 500


def test_test_files_have_names_of_their_own() -> None:
    """Tests of unit/ and kernel/ run in one go, where pytest knows a file by its name alone."""
    names = [
        path.name
        for path in TESTS
        if path.parent.name in {"unit", "kernel", "deploy"} and path.stem != "conftest"
    ]
    assert sorted(set(names)) == sorted(names)
