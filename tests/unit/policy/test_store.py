"""Policies that are kept: read as they were written, written whole or not at all."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tracer.errors import HostError
from tracer.policy import store as saved
from tracer.policy.rules import Mode, Policy
from tracer.policy.store import PolicyFile, Saved, Source

if TYPE_CHECKING:
    from pathlib import Path

ONE = Saved(
    Policy("ollama", ("10.0.0.0/8",), ("@dns",), default_allow=True, mode=Mode.AUDIT, strict=True),
    Source.CONFIG,
    ("/system.slice/ollama.service", "/b\udcffad"),
)
OTHER = Saved(Policy("cgroup:/x"), Source.COMMAND, ("/x",))


def keep(file: PolicyFile, *policies: Saved) -> None:
    """Write these policies."""
    with file.replaced({one.policy.target: one for one in policies}):
        pass


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """Every field, also paths that are no UTF-8; the file is its owner's only."""
    file = PolicyFile(tmp_path / "deep" / "policies.json")
    assert file.load() == {}
    keep(file, ONE, OTHER)
    assert file.load() == {"ollama": ONE, "cgroup:/x": OTHER}
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_failure_inside_keeps_the_old_ones(tmp_path: Path) -> None:
    """What could not be put in force is not kept either, and leaves nothing lying about."""
    file = PolicyFile(tmp_path / "policies.json")
    keep(file, ONE)
    with pytest.raises(ZeroDivisionError), file.replaced({"cgroup:/x": OTHER}):
        raise ZeroDivisionError
    assert file.load() == {"ollama": ONE}
    assert list(tmp_path.iterdir()) == [file.path]


def test_a_full_disk_is_told_before_anything_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block does not run when the file could not be written."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saved, "write_whole", full)
    file, ran = PolicyFile(tmp_path / "policies.json"), False
    with pytest.raises(HostError, match="No space left"), file.replaced({}):
        ran = True
    assert not ran


@pytest.mark.parametrize(
    "damage", [b"", b"[{", b"{}", b"[1]", b'[{"target": "x"}]', b"\xff", b"[" * 9000, b'[{"more": 1}]']
)
def test_a_damaged_file_is_named(damage: bytes, tmp_path: Path) -> None:
    """It is never taken for an empty one: that would unblock."""
    file = PolicyFile(tmp_path / "policies.json")
    file.path.write_bytes(damage)
    with pytest.raises(HostError, match=r"policies\.json is damaged"):
        file.load()
