"""Every error that tattle raises for its user: what failed, how to mend it, and the exit code.

::

    TattleError                     3
    ├── UsageError                  2   the command line, a selector, a rule
    ├── ConfigError                 2   the configuration file
    ├── HostError                   3   this host cannot, or not now
    │   ├── NotRoot
    │   ├── NoCgroup2
    │   ├── NoBpffs
    │   ├── LibraryMissing              libbpf.so.1
    │   ├── KernelError                 a system call or hook refused; has `hook` and `errno`
    │   ├── TargetRefused               a cgroup that cannot be a target: the root, tattle's own
    │   ├── InstanceBusy                another daemon of the same instance runs
    │   └── DaemonAbsent                nothing of this instance is loaded or listening
    ├── NotEnforced                 1   a policy that was asked for is not in force
    ├── ObjectError                 3   the compiled programs: missing, cut, unreadable
    │   └── AbiError                    of another version: names the structure and field
    └── EvidenceIncomplete          4   something was lost: no promise can be made
"""

# ruff: noqa: N818 - the names say what is wrong, a suffix would say nothing

from __future__ import annotations


class TattleError(Exception):
    """An error with a remedy: `message` says what failed, `hint` how to mend it."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TattleError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class ConfigError(TattleError):
    """The configuration file is unreadable or says something that is not allowed."""

    exit_code = 2


class HostError(TattleError):
    """What this host cannot do, or not at the moment."""


class NotRoot(HostError):
    """The caller lacks the privileges that loading or reading BPF needs."""


class NoCgroup2(HostError):
    """No cgroup v2 hierarchy is mounted."""


class NoBpffs(HostError):
    """No BPF file system is mounted and none could be mounted."""


class LibraryMissing(HostError):
    """A shared library of the distribution is not installed."""


class KernelError(HostError):
    """The kernel refused; `hook` names the program or map (empty: none), `errno` the reason."""

    def __init__(self, message: str, hint: str = "", *, hook: str = "", errno: int = 0) -> None:
        super().__init__(message, hint)
        self.hook = hook
        self.errno = errno


class TargetRefused(HostError):
    """A cgroup that exists and cannot be a target: the root, or tattle's own."""


class InstanceBusy(HostError):
    """Another daemon of the same instance is running."""


class DaemonAbsent(HostError):
    """No daemon of this instance is running, or nothing of it is pinned."""


class NotEnforced(TattleError):
    """A finding: the kernel does not hold the policy that somebody relies on."""

    exit_code = 1


class ObjectError(TattleError):
    """The file with the compiled programs is missing, cut short or unreadable."""


class AbiError(ObjectError):
    """The compiled programs are of another version than this code."""


class EvidenceIncomplete(TattleError):
    """Something was lost, so that no promise can be made about the rest."""

    exit_code = 4
