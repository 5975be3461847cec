"""The systemd unit, as systemd sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "tattle.service"


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Every setting is one that systemd knows, every value one that it takes."""
    copy = tmp_path / "tattle.service"
    copy.write_text(UNIT.read_text().replace("/opt/tattle/bin/tattle", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
