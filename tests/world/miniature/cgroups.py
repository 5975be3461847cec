"""Control groups (v2) of the programs in the world, at the usual place on pure and on hybrid hosts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """Return the mount point of cgroup v2; raises LookupError when there is none (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    raise LookupError("cgroup v2 is not mounted")


@contextmanager
def group(path: str) -> Iterator[Path]:
    """Make the cgroup PATH (`/a/b`, parents too) for the time of the block.

    Its processes must have ended by then; raises OSError (EBUSY) when they have not.
    """
    made: list[Path] = []
    directory = root() / path.strip("/")
    for step in reversed([directory, *directory.parents]):
        if not step.exists():
            step.mkdir()
            made.append(step)
    try:
        yield directory
    finally:
        for step in reversed(made):
            step.rmdir()


def inside(directory: Path, command: list[str]) -> list[str]:
    """Return COMMAND so that it runs in the cgroup DIRECTORY from its first instruction on."""
    return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(directory / "cgroup.procs"), *command]
