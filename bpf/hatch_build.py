"""Put the kernel half into every wheel: compiled, so that no host needs clang; and as sources, for bcc."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TOOLS = ("make", "clang", "llvm-strip")
HEADER = Path("/usr/include/bpf/bpf_helpers.h")


class ObjectsHook(BuildHookInterface):
    """Compile bpf/ where clang is there, else take the objects that an sdist carries.

    The objects are the same bytes on every little-endian machine, so the wheel stays `py3-none-any`.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the objects, or end the build with one line that says what to install."""
        if version == "editable":
            return  # a checkout: `make bpf` builds there, whenever a source changes
        if self.target_name == "wheel":
            sources = Path(self.root, "bpf").glob("*.[ch]")
            build_data["force_include"] |= {str(path): f"tracer/sources/{path.name}" for path in sources}
        if not self._missing():
            make = ["make", "--no-print-directory", "-C", "bpf"]
            if subprocess.run(make, cwd=self.root, check=False).returncode:
                raise SystemExit("tattle: bpf/ does not compile, clang's words are above")
        elif not self._prebuilt():
            raise SystemExit(
                f"tattle: cannot compile bpf/, this is missing: {', '.join(self._missing())}\n"
                "  type: sudo apt-get install make clang llvm libbpf-dev linux-libc-dev"
            )

    def _missing(self) -> list[str]:
        header = [] if HEADER.exists() else [str(HEADER)]
        return [tool for tool in TOOLS if not shutil.which(tool)] + header

    def _prebuilt(self) -> bool:
        """Whether each source has an object that is not older than any source."""
        bpf, objects = Path(self.root, "bpf"), Path(self.root, "tracer", "objects")
        built = [objects / f"{source.stem}.o" for source in bpf.glob("*.bpf.c")]
        if not built or not all(path.exists() for path in built):
            return False
        newest = max(path.stat().st_mtime for path in bpf.glob("*.[ch]"))
        return min(path.stat().st_mtime for path in built) >= newest
