"""Who a process is: names escaped, paths put together, units and containers read out of cgroups."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import ENUMS, FakeMaps, process
from tracer.model.containers import Container
from tracer.model.process import cgroup_text, comm_text, container_of, exe_text, unit_of
from tracer.model.rows import CgroupRow
from tracer.model.text import escape
from tracer.targets.processes import Registry

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"curl", "curl"),
        ("größe".encode(), "größe"),
        (b"\x1b[2Jx", "\\x1b[2Jx"),
        (b"a\nb\tc", "a\\x0ab\\x09c"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("a\u202eb".encode(), "a\\u202eb"),
        ("a\u2028b".encode(), "a\\u2028b"),
        ("\U000e0041".encode(), "\\U000e0041"),
        (b'"\\', '"\\'),
    ],
)
def test_escape_shows_what_cannot_be_printed(raw: bytes, expected: str) -> None:
    """Controls, bidirectional marks and invalid UTF-8 become escapes; the rest stays as it is."""
    assert escape(raw) == expected


@given(st.binary(max_size=200))
def test_escaped_bytes_never_reach_a_terminal(raw: bytes) -> None:
    """Whatever the bytes: one printable line that can be encoded again, and escaping is done once."""
    text = escape(raw)
    assert text.isprintable()
    assert text.encode() is not None
    assert escape(text) == text


@given(st.binary(max_size=200), st.integers(2, 50))
def test_escape_keeps_its_limit(raw: bytes, limit: int) -> None:
    """A label or a column is never longer than asked."""
    assert len(escape(raw, limit)) <= limit


def test_exe_is_put_together_from_the_file_name_upwards() -> None:
    """Parts come innermost first; a path whose head did not fit says so."""
    assert exe_text(b"curl\0bin\0usr\0" + bytes(20)) == "/usr/bin/curl"
    assert exe_text(b"curl\0bin\0", cut=True) == "…/bin/curl"
    assert exe_text(bytes(512)) is None
    assert exe_text(b"init\0/\0") == "/init"
    assert exe_text(b"ev\nil\0srv\0") == "/srv/ev\\x0ail"


def test_comm_ends_at_its_nul() -> None:
    """What stands behind the NUL is left over from an older name."""
    assert comm_text(b"sh\0d\0\0") == "sh"
    assert comm_text(b"fifteen-bytes-x") == "fifteen-bytes-x"


@pytest.mark.parametrize(
    ("cgroup", "unit", "container"),
    [
        ("/", None, None),
        (None, None, None),
        ("/system.slice/ollama.service", "ollama.service", None),
        ("/system.slice/ollama.service/sub", "ollama.service", None),
        ("/init.scope", "init.scope", None),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope", "app-x.scope", None),
        ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service", None),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", ID[:12]),
        (f"/docker/{ID}", None, ID[:12]),
        (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", ID[:12]),
        (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope", None),
        (f"/libpod_parent/libpod-{ID}", None, ID[:12]),
        (
            f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
            f"cri-containerd-{ID}.scope",
            ID[:12],
        ),
        (f"/kubepods/burstable/pod1/{ID}", None, ID[:12]),
        (f"/system.slice/docker-{ID}.scope/init.scope", f"docker-{ID}.scope", ID[:12]),
        ("/system.slice", None, None),
    ],
)
def test_unit_and_container_are_read_from_the_path(
    cgroup: str | None, unit: str | None, container: str | None
) -> None:
    """In the forms of systemd, Docker, Podman, containerd and CRI-O, with both cgroup drivers."""
    assert unit_of(cgroup) == unit
    assert container_of(cgroup) == container


def test_cgroup_paths_have_one_form() -> None:
    """The root is a slash, others have none at their end."""
    assert [cgroup_text(raw) for raw in (b"/", b"", b"/a/b\0junk", b"/a/")] == ["/", "/", "/a/b", "/a"]


def test_registry_remembers_but_not_what_was_not_there() -> None:
    """A process that is noted a moment later is found then; a known one is not looked up again."""
    maps = FakeMaps(processes=[])
    registry = Registry(maps, ENUMS, {3: "demo"}.get)
    assert registry.get(1) is None
    maps.table[1] = process(target=3)
    found = registry.get(1)
    assert found is not None
    assert (found.comm, found.exe, found.unit, found.target) == (
        "curl",
        "/usr/bin/curl",
        "demo.service",
        "demo",
    )
    maps.table.clear()
    assert registry.get(1) is found
    assert registry.get(0) is None


def test_registry_asks_again_for_a_target_without_a_name() -> None:
    """A number that is in force before its name can be read has it as soon as it can be."""
    names: dict[int, str] = {}
    registry = Registry(FakeMaps(processes=[process(target=3)]), ENUMS, names.get)
    assert registry.get(1).target is None
    names[3] = "demo"
    assert registry.get(1).target == "demo"
    assert registry.get(1) is registry.get(1)


def test_registry_names_containers() -> None:
    """The engine's name wins over the short id, which stays until an engine knows better."""
    other = "f" * 64

    class Engines:
        generation = 0
        names: ClassVar = {f"/docker/{ID}": "chat"}

        def of(self, cgroup: str) -> Container | None:
            return Container("", self.names[cgroup]) if cgroup in self.names else None

    maps = FakeMaps(
        processes=[process(1, cgroup=8), process(2, cgroup=9)],
        cgroups=[
            CgroupRow(8, 0, 0, 0, 0, f"/docker/{ID}".encode()),
            CgroupRow(9, 0, 0, 0, 0, f"/docker/{other}".encode()),
        ],
    )
    engines = Engines()
    registry = Registry(maps, ENUMS, {}.get, engines)
    assert [registry.get(number).container for number in (1, 2)] == ["chat", other[:12]]
    engines.names[f"/docker/{other}"] = "late"
    assert registry.get(2).container == other[:12]
    engines.generation += 1
    assert [registry.get(number).container for number in (1, 2)] == ["chat", "late"]
