"""Child processes that end with the test that started them."""

import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

END_S = 10.0


def read_line_with(child: subprocess.Popen[bytes], word: bytes, seconds: float) -> bytes:
    """Return CHILD's output up to WORD; raises TimeoutError, or EOFError when it ended first."""
    assert child.stdout is not None
    deadline, seen = time.monotonic() + seconds, b""
    while word not in seen:
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"{child.args!r} did not say {word!r} within {seconds} s, only {seen!r}")
        piece = os.read(child.stdout.fileno(), 4096)
        if not piece:
            raise EOFError(f"{child.args!r} ended before it said {word!r}; it said {seen!r}")
        seen += piece
    return seen


def end(child: subprocess.Popen[bytes]) -> int:
    """Ask CHILD to end, force it after END_S seconds, and return its exit code."""
    if child.poll() is None:
        child.terminate()
    try:
        return child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait(END_S)


@contextmanager
def running(
    command: list[str],
    log: Path,
    *,
    ready: bytes = b"",
    seconds: float = 30.0,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run COMMAND for the time of the block, from when its output has said READY; its stderr goes to LOG.

    It dies with this process, whatever happens (PR_SET_PDEATHSIG, prctl(2)).
    """
    guarded = ["setpriv", "--pdeathsig", "KILL", *command]
    with log.open("ab") as errors:
        child = subprocess.Popen(
            guarded, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=env
        )
    try:
        if ready:
            read_line_with(child, ready, seconds)
        yield child
    except EOFError as error:
        raise AssertionError(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from error
    finally:
        end(child)
        if child.stdout is not None:
            child.stdout.close()
