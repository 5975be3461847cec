"""A host that cannot compile is told so, with the package that is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracer.bpf.loader import bcc
from tracer.errors import LibraryMissing

if TYPE_CHECKING:
    from pathlib import Path


def test_without_the_distributions_bcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Named with its package, and that PyPI's is another one."""
    monkeypatch.setattr(bcc, "DISTRIBUTION", str(tmp_path))
    with pytest.raises(LibraryMissing, match="python3-bpfcc") as caught:
        bcc.compiled()
    assert caught.value.hint.startswith("apt install python3-bpfcc")
    with pytest.raises(LibraryMissing, match="python3-bpfcc"):
        bcc.version()


def test_pypis_bcc_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has the same name and none of what is needed."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("")
    monkeypatch.setattr(bcc, "DISTRIBUTION", str(tmp_path))
    with pytest.raises(LibraryMissing, match="cannot be used"):
        bcc.compiled()
