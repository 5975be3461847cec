"""Targets are told to the kernel half as it can take them; in too many means held, never forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from tracer.bpf.abi import Abi
from tracer.bpf.engine import OBJECT
from tracer.bpf.maps import members
from tracer.bpf.maps.tables import Settings
from tracer.errors import HostError
from tracer.model.containers import Container
from tracer.model.rows import CgroupRow
from tracer.targets.containers import ContainerTargets
from tracer.targets.finder import TargetBook, parse
from tracer.targets.kernel import Membership
from tracer.targets.meaning import meaning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID = "0123456789abcdef" * 4
DEEP = "a/b/c/d/e"
MOST = 4


class Kernel:
    """Maps by name, as libbpf has them by descriptor: what the kernel half would be told."""

    NOEXIST = 1

    def __init__(self) -> None:
        self.maps: dict[str, dict[bytes, bytes]] = {}
        self.rows: dict[int, CgroupRow] = {}
        self.settings = Settings(*[0] * len(Settings._fields))

    # libbpf

    def update(self, fd: str, key: bytes, value: bytes, flags: int = 0) -> bool:
        """BPF_MAP_UPDATE_ELEM."""
        table = self.maps.setdefault(fd, {})
        if flags == self.NOEXIST and key in table:
            return False
        table[key] = value
        return True

    def lookup(self, fd: str, key: bytes, _size: int) -> bytes | None:
        """BPF_MAP_LOOKUP_ELEM."""
        return self.maps.get(fd, {}).get(key)

    def delete(self, fd: str, key: bytes) -> bool:
        """BPF_MAP_DELETE_ELEM."""
        return self.maps.get(fd, {}).pop(key, None) is not None

    def batches(self, fd: str, *_sizes: int) -> Iterator[tuple[bytes, bytes]]:
        """BPF_MAP_LOOKUP_BATCH."""
        table = dict(self.maps.get(fd, {}))
        yield b"".join(table), b"".join(table.values())

    # Maps

    @staticmethod
    def fd(name: str) -> str:
        """Return what stands for a map."""
        return name

    @staticmethod
    def shape(_: str) -> Any:  # noqa: ANN401 - some fields of MapShape
        """Return the sizes of texts."""
        return SimpleNamespace(key_size=256, value_size=4)

    def cgroups(self) -> list[CgroupRow]:
        """Return the cgroups that are known."""
        return list(self.rows.values())

    def cgroup(self, number: int) -> CgroupRow | None:
        """Return one of them."""
        return self.rows.get(number)

    def add_cgroup(self, number: int, path: bytes) -> bool:
        """Take a cgroup in."""
        self.rows[number] = CgroupRow(number, 0, 0, 0, 0, path)
        return True

    def set_place(self, number: int, target: int, node: int) -> bool:
        """Say which targets it is in."""
        self.rows[number] = self.rows[number]._replace(target=target, node=node)
        return True

    @staticmethod
    def enforcing() -> bool:
        """Whether a policy is in force."""
        return False


class Host(NamedTuple):
    """A kernel with a few cgroups, and what tells it who is in a target."""

    kernel: Kernel
    book: TargetBook
    members: Membership

    def name(self, *selectors: str) -> None:
        """Name targets, one after the other, as `block` does."""
        for one in selectors:
            self.members.name({self.book.number(one): meaning(parse(one))})

    def unname(self, selector: str) -> None:
        """Name one no more."""
        self.members.unname([self.book.number(selector)])

    def of(self, path: str) -> tuple[set[str | None], bool]:
        """Return the targets of a cgroup, and whether it is held."""
        row = next(one for one in self.kernel.cgroups() if one.path == f"/{path}".encode())
        found = self.members.tables.members(row.target)
        return {self.book.name(one) for one in found}, bool(row.target & self.members.tables.held_bit)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Make the host; its cgroups are directories."""
    kernel, book = Kernel(), TargetBook()
    monkeypatch.setattr(members, "libbpf", kernel)
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    (root / DEEP).mkdir(parents=True)
    (root / "docker" / ID).mkdir(parents=True)
    proc.mkdir()
    engine: Any = SimpleNamespace(
        maps=kernel, abi=Abi.from_object(OBJECT.read_bytes()), root=root, follow_processes=lambda **_: None
    )
    made = Host(kernel, book, Membership(engine, book, proc))
    made.members.spread()
    return made


def nested(count: int) -> list[str]:
    """Return selectors of cgroups below each other."""
    parts = DEEP.split("/")
    return ["cgroup:/" + "/".join(parts[: at + 1]) for at in range(count)]


def test_one_cgroup_may_be_in_four_targets(host: Host) -> None:
    """By its own path and those above it; none is lost."""
    host.name(*nested(MOST))
    assert host.of(DEEP) == (set(nested(MOST)), False)


def test_a_fifth_is_refused_and_nothing_has_changed(host: Host) -> None:
    """With an error that says what to do: who is in the four stays in them, and is not held."""
    host.name(*nested(MOST))
    before = dict(host.kernel.rows)
    with pytest.raises(HostError, match="more targets than can be told apart"):
        host.name(nested(MOST + 1)[-1])
    assert host.kernel.rows == before
    assert set(host.members.meanings()) == {host.book.number(one) for one in nested(MOST)}
    host.unname(nested(1)[0])
    host.name(nested(MOST + 1)[-1])
    assert host.of(DEEP) == (set(nested(MOST + 1)[1:]), False)


def test_a_container_in_five_is_held_until_it_is_in_four(host: Host) -> None:
    """An engine tells of it when it likes: told once, nothing of it passes, and it is let go again."""
    selectors = [f"container:{pattern}" for pattern in ("llm", "l*", "*m", "ll*", "*lm")]
    engines: Any = SimpleNamespace(all=lambda: [Container(ID, "llm")])
    containers = ContainerTargets(host.members, engines)
    host.name(*selectors)
    with capture_logs() as logs:
        containers.sync()
        containers.sync()
    assert [(one["event"], one["container"]) for one in logs] == [
        ("held: in more targets than can be told apart (4)", ID)
    ]
    assert host.of(f"docker/{ID}")[1]
    assert host.members.crowded() == {ID}
    host.unname(selectors[-1])
    containers.sync()
    assert host.of(f"docker/{ID}") == (set(selectors[:-1]), False)
    assert not host.members.crowded()


def test_a_container_that_was_forgotten_is_told_of_only_where_it_would_be_held(host: Host) -> None:
    """Its engine is silent and it does not run: what appears under its id is held, or may be let pass."""
    gone = "f" * 64
    what = meaning(parse("container:llm"), (f"/docker/{gone}",))
    number = host.book.number("container:llm")
    host.members.name({number: what})
    assert host.members.is_told(number, what)
    host.members.forget(gone)
    assert not host.members.is_told(number, what)
    host.members.hold(on=True)
    assert host.members.is_told(number, what)
    host.members.know(gone, ())
    assert not host.members.is_told(number, what)


def test_a_cgroup_held_by_the_kernel_half_for_its_number_is_let_go(host: Host) -> None:
    """It could not unite five targets when the cgroup was made: four can be."""
    host.name(*nested(2))
    number, row = next((n, row) for n, row in host.kernel.rows.items() if row.path == b"/a/b")
    host.kernel.set_place(number, row.target | host.members.tables.held_bit, row.node)
    host.members.spread()
    assert host.of("a/b") == (set(nested(2)), False)


def test_a_process_in_five_is_held(host: Host) -> None:
    """As a cgroup is; in four it is not."""
    host.members.tables.put_mark(7, (1, 2, 3, 4, 5))
    host.members.tables.put_mark(8, (1, 2, 3, 4))
    marks = host.members.tables.marks()
    assert {tgid: mark.held for tgid, mark in marks.items()} == {7: True, 8: False}
