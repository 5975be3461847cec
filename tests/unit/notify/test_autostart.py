"""The autostart entry, as desktops read it."""

from __future__ import annotations

import configparser
from typing import TYPE_CHECKING

from tracer.notify.autostart import disable, enable, entry

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def read(text: str) -> configparser.SectionProxy:
    """Read an entry."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return parser["Desktop Entry"]


def test_the_packages_entry_is_off() -> None:
    """Hidden is what every desktop takes for off; the rest is what a user's own has."""
    assert read(entry("/usr/bin/tattle", hidden=True))["Hidden"] == "true"
    assert read(entry("/usr/bin/tattle", hidden=False))["Exec"] == "/usr/bin/tattle notify"


def test_a_path_with_spaces_is_one_word() -> None:
    """Quoted as the Exec key wants it, and no field code."""
    assert (
        read(entry("/opt/my tools/100%/tattle", hidden=False))["Exec"]
        == '"/opt/my tools/100%%/tattle" notify'
    )


def test_it_is_enabled_and_disabled_in_the_users_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDG_CONFIG_HOME is where; nothing stays behind."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = enable("/usr/bin/tattle")
    assert path == tmp_path / "config/autostart/tattle-notify.desktop"
    assert read(path.read_text())["Hidden"] == "false"
    disable()
    assert not path.exists()
