"""Directories that ordinary users can look into: some traffic programs become one.

pytest's own are closed to them again whenever another run of it begins on the machine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "tattle-test-"


def open_place(name: str) -> Path:
    """Make such a directory; those of runs that have ended are removed."""
    temporary = Path(tempfile.gettempdir())
    for other in temporary.glob(f"{_PREFIX}*-*"):
        pid = other.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(other, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{name}-"))
    made.chmod(0o755)
    return made
