"""The house keeps its order: arrows point one way, layouts stand once, kernel tests never skip."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sorted([*ROOT.glob("tracer/**/*.py"), *ROOT.glob("exporters/**/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))
ABI = (ROOT / "bpf" / "abi.h").read_text()

# Bytes in, values out: these touch no file, clock or kernel. `os` is the world; `time` is a clock.
PURE = {
    "tracer.bpf.btf",
    "tracer.bpf.loader.linker",
    "tracer.bpf.loader.relocate",
    "tracer.history.destinations",
    "tracer.history.report",
    "tracer.history.suggest",
    "tracer.history.timespec",
    "tracer.model",
    "tracer.names.cache",
    "tracer.names.dns",
    "tracer.names.quic",
    "tracer.names.reassembly",
    "tracer.names.tls",
    "tracer.notify.decisions",
    "tracer.policy.name_rules",
    "tracer.policy.rules",
    "tracer.proof.canonical",
    "tracer.proof.evidence",
    "tracer.runtimes.keep",
    "tracer.runtimes.purposes",
    "tracer.runtimes.spelling",
}
IMPURE = {"os", "time", "pathlib", "socket", "subprocess", "ctypes", "mmap", "select", "threading", "logging"}
PURE_OF_SOCKET = {"AF_INET", "AF_INET6", "inet_ntop", "inet_pton"}  # addresses from and to text

# Who may import whom, from the bottom up: a package may import its own modules, the root (`tracer`, which
# holds the version) and the packages on its line. A line may name lines above it only.
MAY_IMPORT = {
    "tracer.errors": "",
    "tracer.model": "errors",
    "tracer.host": "errors model",
    "tracer.containers": "errors model host",
    "tracer.netlink": "errors model host",
    "tracer.bpf": "errors model host",
    "tracer.command": "errors model host",
    "tracer.runtimes": "errors model host netlink",
    "tracer.targets": "errors model host containers bpf runtimes",
    "tracer.policy": "errors model host netlink containers bpf runtimes targets",
    "tracer.names": "errors model host policy",
    "tracer.log": "errors model",
    "tracer.config": "errors model targets policy",
    "tracer.session": "errors model host containers bpf runtimes names targets policy config",
    "tracer.history": "errors model host runtimes names targets policy",
    "exporters.http": "errors model",
    "exporters.logs": "errors model",
    "exporters.prometheus": "errors model",
    "exporters.terminal": "errors model",
    "exporters.pages": "errors model exporters.http exporters.terminal",
    "tracer.proof": "errors model host command bpf targets session",
    "tracer.notify": "errors model host",
    "tracer.daemon": "errors model host netlink containers targets policy config session history notify "
    "exporters.http exporters.logs exporters.prometheus exporters.pages",
    "tracer.cli": "errors model log host containers command bpf runtimes names targets policy config session "
    "history proof notify daemon exporters.http exporters.logs exporters.pages exporters.terminal",
    "tracer.__main__": "errors model log cli",
}
ROOMS = 10
"""Modules that a package may have: more is a flat folder again. cli/ has one a command."""
# libbpf is known to three files, bcc to one; the others make one system call each that the standard library
# lacks (capset, mount, pidfd_getfd).
KNOW_CTYPES = {
    "tracer.containers.inotify",
    "tracer.bpf.inventory",
    "tracer.bpf.libbpf",
    "tracer.bpf.loader.bcc",
    "tracer.bpf.loader.object",
    "tracer.host.capabilities",
    "tracer.host.cgroups",
    "tracer.host.syscalls",
}


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
    """Return the module of an import: `from tracer.bpf import abi` names one, `... import Abi` does not."""
    inner = ROOT.joinpath(*module.split("."))
    is_module = (inner / f"{name}.py").exists() or (inner / name / "__init__.py").exists()
    return f"{module}.{name}" if is_module else module


def is_pure(module: str) -> bool:
    """Whether a module, or the package that it is in, stands in PURE."""
    return module in PURE or module.rpartition(".")[0] in PURE


def package(module: str) -> str:
    """Return the package whose line in MAY_IMPORT holds for a module."""
    return ".".join(module.split(".")[:2])


def allowed(package: str) -> set[str]:
    """Return the packages that a package may import, itself and the root included."""
    named = {name if "." in name else f"tracer.{name}" for name in MAY_IMPORT[package].split()}
    return {"tracer", package} | named


def test_the_lines_point_one_way() -> None:
    """A package's line names packages above it only, so there is no circle between packages."""
    above: set[str] = set()
    for name in MAY_IMPORT:
        assert allowed(name) - {"tracer", name} <= above, f"{name} may import what stands below it"
        above.add(name)


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    """A package imports what its line in MAY_IMPORT names, and nothing that is built on top of it."""
    module = name_of(path)
    if "." not in module:
        return
    known = {package(to) for to in imports(path) if to.split(".")[0] in {"tracer", "exporters"}}
    wrong = known - allowed(package(module))
    assert not wrong, f"{module} imports {sorted(wrong)}; see MAY_IMPORT"


def test_packages_have_few_rooms() -> None:
    """A package has at most ten modules and says in one line what it is for."""
    for init in sorted([*ROOT.glob("tracer/**/__init__.py"), *ROOT.glob("exporters/**/__init__.py")]):
        rooms = [path for path in init.parent.glob("*.py") if path != init]
        assert len(rooms) <= ROOMS or init.parent.name == "cli", f"{init.parent} has {len(rooms)} modules"
        assert len((ast.get_docstring(ast.parse(init.read_text())) or "").split()) > 3, init


@pytest.mark.parametrize("path", [path for path in PYTHON if is_pure(name_of(path))], ids=name_of)
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
        assert name_of(path) in KNOW_CTYPES, f"{path.name} uses ctypes"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_dependencies_are_the_declared_ones(path: Path) -> None:
    """What is imported is the standard library or stands in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=! ]", one)[0].replace("-", "_") for one in project["dependencies"]}
    declared |= {"tracer", "exporters"}
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
    assert kinds - {"__pycache__"} <= {"unit", "kernel", "vm", "bench", "world", "study", "deploy", "support"}


@pytest.mark.parametrize("folder", ["bpf", "tracer", "exporters", "tests", "deploy"])
def test_each_folder_says_what_it_holds(folder: str) -> None:
    """A README each, with every file at the top of the folder in it by name."""
    text = (ROOT / folder / "README.md").read_text()
    files = {path.name for path in (ROOT / folder).iterdir() if path.is_file() and path.suffix != ".pyc"}
    unsaid = {name for name in files - {"README.md", "__init__.py", "py.typed"} if name not in text}
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


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_logging_is_structlogs(path: Path) -> None:
    """Records have fields: a text with values in it cannot be searched, and is no JSON."""
    if name_of(path) == "tracer.log":
        return
    assert "logging" not in set(imports(path)), f"{path.name}: log = structlog.get_logger(...)"


def test_the_programs_have_no_constants() -> None:
    """Linux 5.10 refuses the types of an object whose compiler has put any aside; bcc knows none either."""
    assert b".rodata" not in (ROOT / "tracer" / "objects" / "tattle.bpf.o").read_bytes()
