"""The kernel's lockdown mode: kernel_lockdown(7)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LOCKDOWN = Path("/sys/kernel/security/lockdown")
"""The modes, the one in force in brackets: security/lockdown/lockdown.c."""
HINT: Final = "boot with lockdown=integrity, which is enough for secure boot"


def modes() -> str | None:
    """Return the line of modes; None where this kernel has no lockdown, or does not show it."""
    try:
        return LOCKDOWN.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return None


def is_confidential() -> bool:
    """Return whether programs may not read kernel memory, and tattle's are refused for that."""
    return "[confidentiality]" in (modes() or "")
