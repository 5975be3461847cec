"""What a service's files set variables to: read as systemd reads them, from the weakest to the strongest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracer.runtimes.units import Setting, settings, unit_file

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {"A", "B"}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Have two places of units, the strongest first."""
    found = (tmp_path / "etc", tmp_path / "lib")
    for place in found:
        (place / "one.service.d").mkdir(parents=True)
    return found


def test_drop_ins_and_files_beat_the_unit(places: tuple[Path, Path]) -> None:
    """In the order of their names; a drop-in hides one of the same name in a weaker place."""
    etc, lib = places
    (lib / "one.service").write_text('[Service]\nEnvironment="A=unit" B=unit C=secret\n# Environment=A=no\n')
    assert settings("one.service", NAMES, places) == {
        "A": Setting("unit", str(lib / "one.service")),
        "B": Setting("unit", str(lib / "one.service")),
    }
    (lib / "one.service.d/10.conf").write_text("[Service]\nEnvironment=A=weak\n")
    (etc / "one.service.d/10.conf").write_text("[Service]\nEnvironment=A=strong\n[X]\nEnvironment=A=other\n")
    assert settings("one.service", {"A"}, places)["A"].value == "strong"
    (etc / "file").write_text("# A=no\nA='from a file'\n;B=no\n")
    (etc / "one.service.d/20.conf").write_text(
        f"[Service]\nEnvironmentFile=-{etc}/file\nEnvironmentFile=-/no\n"
    )
    assert settings("one.service", {"A"}, places)["A"] == Setting("from a file", str(etc / "file"))
    (etc / "one.service.d/30.conf").write_text(
        "[Service]\nEnvironment=\nEnvironmentFile=\nEnvironment=B=\\\n  \n"
    )
    assert settings("one.service", NAMES, places) == {"B": Setting("", str(etc / "one.service.d/30.conf"))}


def test_a_unit_of_the_stronger_place_counts(places: tuple[Path, Path]) -> None:
    """And one that is nowhere sets nothing."""
    etc, lib = places
    (lib / "one.service").write_text("[Service]\nEnvironment=A=lib\n")
    (etc / "one.service").write_text("[Service]\nEnvironment='A=etc\nEnvironment=B=etc\n")
    assert unit_file("one.service", places) == etc / "one.service"
    assert settings("one.service", NAMES, places) == {"B": Setting("etc", str(etc / "one.service"))}
    assert settings("two.service", NAMES, places) == {}
