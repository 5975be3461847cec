"""The kernel's lockdown mode, and what a refusal says under it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tracer.bpf import libbpf
from tracer.host import lockdown

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("modes", "hint"),
    [
        ("none integrity [confidentiality]\n", "lockdown=integrity"),
        ("none [integrity] confidentiality\n", "run it as root"),
        (None, "run it as root"),
    ],
)
def test_a_refusal_names_what_refuses(
    modes: str | None, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under lockdown=confidentiality no privilege helps: the hint names the boot option that does."""
    file = tmp_path / "lockdown"
    if modes is not None:
        file.write_text(modes)
    monkeypatch.setattr(lockdown, "LOCKDOWN", file)
    assert hint in libbpf.refused("the kernel refuses the programs", errno.EPERM).hint
    assert libbpf.refused("the kernel refuses the programs", errno.EINVAL).hint == ""
