"""The user who called us through sudo, doas or pkexec: their command runs with their rights, not root's."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.errors import UsageError
from tracer.host.syscalls import forbid_new_privileges
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

# sudo(8) "ENVIRONMENT", pkexec(1); doas(1) names the user instead.
_BY_NUMBER: Final = ("SUDO_UID", "PKEXEC_UID")
_BY_NAME: Final = "DOAS_USER"
_TOLD: Final = ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "SUDO_HOME", "PKEXEC_UID", "DOAS_USER")
_RUNTIME: Final = Path("/run/user")  # pam_systemd(8): XDG_RUNTIME_DIR


class Caller(NamedTuple):
    """Whose rights and environment a command gets."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    environment: dict[str, str]

    def become(self) -> None:
        """Take this user's rights for good, in a process that is about to execute a command of theirs.

        Root's own stay root's. What a user's command executes gains no rights (sudo, ping): with root's it
        could leave its cgroup.
        """
        if self.uid:
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            forbid_new_privileges()


def find(environment: Mapping[str, str]) -> Caller:
    """Return who has called, by what sudo and its like leave in the environment; root without any.

    Raises UsageError for a variable that names no user.
    """
    uid = _uid(environment)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        gid = int(environment.get("SUDO_GID", uid))
        return Caller(uid, gid, (gid,), str(uid), _bare(environment))
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Caller(uid, entry.pw_gid, groups, entry.pw_name, _environment(environment, entry))


def _uid(environment: Mapping[str, str]) -> int:
    for variable in _BY_NUMBER:
        if variable in environment:
            return _number(variable, environment[variable])
    if _BY_NAME not in environment:
        return os.getuid()
    try:
        return pwd.getpwnam(environment[_BY_NAME]).pw_uid
    except KeyError:
        raise _wrong(_BY_NAME, environment[_BY_NAME]) from None


def _number(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) >= 0xFFFFFFFF:  # noqa: PLR2004 - (uid_t) -1 is no user
        raise _wrong(variable, text)
    return int(text)


def _wrong(variable: str, text: str) -> UsageError:
    return UsageError(f"{variable} is '{escape(text)}', which is no user", f"unset {variable}, or use sudo")


def _bare(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _TOLD}


def _environment(environment: Mapping[str, str], entry: pwd.struct_passwd) -> dict[str, str]:
    """Return the environment as the user's own: sudo has made it root's, unless it was told to keep it."""
    found = _bare(environment)
    if not entry.pw_uid:
        return found
    if found.get("HOME", "/root") in {"/root", pwd.getpwuid(0).pw_dir}:
        found["HOME"] = entry.pw_dir
    found |= {"USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": entry.pw_shell or "/bin/sh"}
    found.pop("MAIL", None)
    runtime = _RUNTIME / str(entry.pw_uid)
    if runtime.is_dir():
        found.setdefault("XDG_RUNTIME_DIR", str(runtime))
    return found
