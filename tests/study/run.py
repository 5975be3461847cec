"""Run the runtimes that can be had here through their lives in the miniature internet, and write the page.

    make study                       what can be built and installed here
    make study OLLAMA=/path/ollama   the real Ollama, too

Writes RESULTS.md beside this file. Needs root; about ten minutes. Nothing leaves the machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.study import runtimes
from tests.study.page import page
from tests.world.miniature.layout import CACHE
from tests.world.miniature.world import World, world

HERE = Path(__file__).resolve().parent
QUIET = "OLLAMA_NO_CLOUD=1"


def runs(up: World, state: Path, ollama: str) -> list[runtimes.Run]:
    """Run all that are here, one after the other."""
    found: list[runtimes.Run] = []
    if ollama:
        binary = runtimes.whole(Path(ollama).resolve(), _new(state, "real"))
        version = runtimes.version_of(Path(ollama))
        found.append(runtimes.ollama(up, _new(state, "open"), binary, version))
        found.append(runtimes.ollama(up, _new(state, "quiet"), binary, version, setting=QUIET))
    found.append(runtimes.llama_cpp(up, _new(state, "llama"), f"xllamacpp {_wheel('xllamacpp')}"))
    program = runtimes.standin(state / "standin")
    if program is None:
        print("study: no Go here that builds the stand-in; it is left out", file=sys.stderr)
    else:
        found.append(runtimes.ollama(up, _new(state, "go"), program, "standin"))
        found.append(runtimes.ollama(up, _new(state, "go-quiet"), program, "standin", setting=QUIET))
    return found


def _new(state: Path, name: str) -> Path:
    place = state / name
    place.mkdir()
    return place


def _wheel(name: str) -> str:
    """Return the version of a package of the world."""
    found = next((CACHE / "venv/lib").glob(f"python3*/site-packages/{name}-*.dist-info"))
    return found.name.removesuffix(".dist-info").partition("-")[2]


def main() -> int:
    """Run, write, and say where."""
    with tempfile.TemporaryDirectory(prefix="tattle-study-") as name, world(Path(name)) as up:
        text = page(runs(up, Path(name), os.environ.get("OLLAMA", "")))
    (HERE / "RESULTS.md").write_text(text)
    print(f"study: {HERE / 'RESULTS.md'}; `make docs` puts its first table into README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
