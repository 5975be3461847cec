"""One command of the caller's, run in a cgroup of its own, so that all that it starts is in there with it.

It keeps the caller's terminal, standard streams, credentials and process group. Signals of the terminal
reach it anyway, those that somebody sends to us are passed on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tracer.errors import HostError
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

PASSED_ON: Final = frozenset(
    {
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)
_NAME: Final = "tattle-prove-"
_WATCHED: Final = PASSED_ON | {signal.SIGCHLD}
_SI_KERNEL: Final = 0x80  # include/uapi/asm-generic/siginfo.h: a terminal's signal, to the whole group
_STOP_S: Final = 0.05
_SHELL_BASE: Final = 128  # how shells tell of an end by signal: 128 + its number


class Cgroup:
    """A fresh cgroup below the caller's, else below the v2 root; removed at the end, if it is empty."""

    def __init__(self, root: Path, own: str | None) -> None:
        """`own` is the caller's cgroup below `root`: what holds for the caller holds for the command, too."""
        self.path = ""
        for parent in dict.fromkeys((own or "/", "/")):
            path = f"{parent.rstrip('/')}/{_NAME}{os.getpid()}"
            _sweep(root / parent.lstrip("/"))
            try:
                (root / path.lstrip("/")).mkdir()
            except OSError as error:
                reason = error.strerror
                continue
            self.path = path
            self.directory = root / path.lstrip("/")
            return
        raise HostError(f"no cgroup can be made below {root}: {reason}", "run it with sudo, on the host")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it, and those that were made below."""
        for directory in sorted(self.directory.glob("**/"), reverse=True):
            with contextlib.suppress(OSError):  # somebody is left in it
                directory.rmdir()


def _sweep(parent: Path) -> None:
    """Remove what earlier runs could not: somebody whom their command had left behind was still in there."""
    for old in parent.glob(f"{_NAME}[1-9]*"):
        if not Path("/proc", old.name.removeprefix(_NAME)).exists():
            with contextlib.suppress(OSError):
                old.rmdir()


class Signals:
    """Holds signals back for `wait`, which tells of them one by one."""

    def __enter__(self) -> Self:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)

    def wait(self, seconds: float) -> signal.struct_siginfo | None:
        """Wait for a signal at most so long."""
        return signal.sigtimedwait(_WATCHED, max(seconds, 0))


class Child:
    """The running command."""

    def __init__(
        self,
        words: Sequence[str],
        into: Path | None,
        before: Signals,
        early: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, in the cgroup `into` before its first instruction; HostError where it cannot be started.

        `early` is called in the new process, last of all. `environment` None: ours.
        """
        procs = os.open(into / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) if into else None

        def prepare() -> None:
            if procs is not None:
                os.write(procs, b"0")
            signal.pthread_sigmask(signal.SIG_SETMASK, before.before)
            if early is not None:
                early()

        try:
            self._process = subprocess.Popen(words, env=environment, preexec_fn=prepare)  # noqa: PLW1509 - no thread runs yet
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            mend = "give a program by its path, or by a name that is in PATH; behind -- stands nothing else"
            raise HostError(f"cannot start {escape(words[0])}: {escape(str(reason))}", mend) from None
        finally:
            if procs is not None:
                os.close(procs)
        self._interrupts = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> bool:
        """Tell whether it is over."""
        return self._process.poll() is not None

    def follow_stop(self) -> None:
        """Stop with the command, so that the shell has its terminal back, and go on together with it.

        A terminal's stop reaches both, and so does the shell's SIGCONT: only where the command is still
        stopped a moment later, it has been stopped by itself.
        """
        if not self._is_stopped(peek=True):
            return
        time.sleep(_STOP_S)
        if self._is_stopped(peek=False):
            os.kill(os.getpid(), signal.SIGSTOP)
            self._process.send_signal(signal.SIGCONT)

    def _is_stopped(self, *, peek: bool) -> bool:
        flags = os.WSTOPPED | os.WNOHANG | (os.WNOWAIT if peek else 0)
        try:
            return os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:
            return False

    @property
    def exit_code(self) -> int | None:
        """Its exit code as shells give it; None while it runs."""
        code = self._process.returncode
        return _SHELL_BASE - code if code is not None and code < 0 else code

    def handle(self, told: signal.struct_siginfo) -> bool:
        """Pass a signal on if it came to us alone; True where the user will not wait for it."""
        if told.si_signo == signal.SIGCHLD or self.ended():
            return False
        if told.si_code != _SI_KERNEL:
            self._process.send_signal(told.si_signo)
        self._interrupts += told.si_signo == signal.SIGINT
        return self._interrupts > 1
