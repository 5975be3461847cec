"""`tattle doctor`: can this host run it? Each thing is tried, not deduced from a version."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tracer.bpf import libbpf
from tracer.bpf.engine import Engine, EngineOptions
from tracer.bpf.hooks import HOOKS
from tracer.bpf.loader import bcc
from tracer.cli.command import Command, add_json, print_json, told
from tracer.errors import HostError, TattleError
from tracer.host import capabilities, cgroups, lockdown
from tracer.host.resolv_conf import asks_resolved
from tracer.model.text import escape
from tracer.proof.limits import LIMITS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

OK, WARN, FAIL = "ok", "warn", "fail"
_UNASKED: Final = (
    "no hook is asked when they connect: a blocked target gets such a socket only where a rule allows"
    " something of it; what is denied of that then hangs instead of failing at once"
)


class Check(NamedTuple):
    """What was looked at, how it stands (ok, warn, fail), in words, and how to mend it."""

    check: str
    result: str
    said: str
    mend: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of this host."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0, or the code of a host that cannot."""
        return HostError.exit_code if any(check.result == FAIL for check in self.checks) else 0

    def document(self) -> dict[str, Any]:
        """Give the report as an object."""
        return {
            "able": self.exit_code == 0,
            "kernel": platform.release(),
            "checks": [check._asdict() for check in self.checks],
            "limits": list(LIMITS),
        }


def examine(instance: str) -> Report:
    """Look at everything; never raises for what is wrong with the host."""
    checks = [
        _try("privileges", _privileges),
        _try("cgroup v2", lambda: f"the whole hierarchy is mounted at {cgroups.cgroup2_root()}"),
        _try("bpffs", lambda: f"mounted at {cgroups.bpffs_root()}"),
        _try("BTF", _btf),
        _try("libbpf", libbpf.version),
        _bcc(instance),
        _lockdown(),
        _unprivileged(),
        *_hooks(instance),
        _version1(),
        _names(),
        Check("SCTP, DCCP", OK, _UNASKED),
        _packet_sockets(),
        _statistics(),
    ]
    return Report(tuple(checks))


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, OK, look())
    except TattleError as error:
        return Check(name, FAIL, escape(error.message), escape(error.hint))


def _privileges() -> str:
    capabilities.require_loading()
    return "loading and attaching is permitted"


def _btf() -> str:
    if not Path("/sys/kernel/btf/vmlinux").exists():
        raise HostError(
            "no BTF of the kernel (/sys/kernel/btf/vmlinux)", "boot one with CONFIG_DEBUG_INFO_BTF=y"
        )
    return "the kernel describes its types (/sys/kernel/btf/vmlinux)"


def _bcc(instance: str) -> Check:
    """Try the other engine where it is installed; nobody needs it who does not ask for it."""
    try:
        version = bcc.version()
    except TattleError:
        return Check("bcc", OK, "not installed; --engine bcc needs it", "apt install python3-bpfcc")
    try:
        Engine.open(EngineOptions(instance=instance, pin=False, engine="bcc")).close()
    except TattleError as error:
        said = f"{version}: --engine bcc does not work: {escape(error.message)}"
        return Check("bcc", WARN, said, escape(error.hint))
    return Check("bcc", OK, f"{version}: compiles the programs of {bcc.SOURCES}, and they load and attach")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return None


def _lockdown() -> Check:
    """Look at the lockdown mode: confidentiality takes the helpers that read names."""
    if lockdown.is_confidential():
        said = "confidentiality: programs may not read kernel memory"
        return Check("lockdown", FAIL, said, lockdown.HINT)
    modes = lockdown.modes()
    return Check("lockdown", OK, "not in the way" if modes is None else f"not in the way ({escape(modes)})")


def _unprivileged() -> Check:
    """Look at kernel.unprivileged_bpf_disabled (Documentation/admin-guide/sysctl/kernel.rst)."""
    value = _read("/proc/sys/kernel/unprivileged_bpf_disabled")
    if value == "0":
        mend = "sysctl kernel.unprivileged_bpf_disabled=2"
        return Check("unprivileged bpf", WARN, "every user may load programs: not needed here", mend)
    return Check("unprivileged bpf", OK, "users may not load programs" if value else "not known here")


def _hooks(instance: str) -> list[Check]:
    """Load and attach our own programs, unpinned, one look at each hook; then they are gone again."""
    wanted = frozenset({spec.hook for spec in HOOKS} | {spec.program for spec in HOOKS})
    refused = ""
    try:
        with Engine.open(EngineOptions(instance=instance, pin=False)) as engine:
            return [_hook(hook.hook, attached=hook.attached) for hook in engine.hooks()]
    except TattleError as error:
        refused, mend = escape(error.message), escape(error.hint)
    checks = [Check("programs", FAIL, refused, mend)]
    try:
        with Engine.open(EngineOptions(instance=instance, pin=False, allow_missing=wanted)) as engine:
            checks += [_hook(hook.hook, attached=hook.attached) for hook in engine.hooks()]
    except TattleError:
        return checks
    return checks


def _hook(name: str, *, attached: bool) -> Check:
    if attached:
        return Check(f"hook {name}", OK, "loaded and attached")
    return Check(f"hook {name}", FAIL, "refused by this kernel", f"a newer kernel, or --allow-missing {name}")


def _version1() -> Check:
    """Look for cgroup v1 net_cls and net_prio in use."""
    used = cgroups.version1_in_use()
    if not used:
        return Check("cgroup v1", OK, "net_cls and net_prio are not in use")
    said = f"{', '.join(used)} in use: sockets may lose their v2 cgroup"
    return Check("cgroup v1", WARN, said, cgroups.VERSION1_HINT)


def _names() -> Check:
    """Look whether names are asked where no packet shows them (nss-resolve(8))."""
    if not asks_resolved():
        return Check("names", OK, "asked by DNS, which rules by name can read")
    said = "programs ask systemd-resolved by its own socket: rules by name open nothing for them"
    mend = "in /etc/nsswitch.conf leave out `resolve` in the line `hosts:` (`hosts: files dns`)"
    return Check("names", WARN, said, mend)


def _packet_sockets() -> Check:
    """Look for AF_PACKET sockets (packet(7)): who holds one can send what no cgroup hook sees."""
    lines = (_read("/proc/net/packet") or "").splitlines()[1:]
    inodes = {line.split()[8] for line in lines}
    if not inodes:
        return Check("AF_PACKET", OK, "no such socket is open in this network namespace")
    holders = sorted({_holder(link) for link in _sockets() if _inode(link) in inodes})
    names = ", ".join(holders) or "processes that are not visible"
    return Check("AF_PACKET", WARN, f"open now, and able to send unseen: {names}", "see whether they need it")


def _sockets() -> list[Path]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                found += list((process / "fd").iterdir())
            except OSError:  # gone, or not ours to see
                continue
    return found


def _inode(link: Path) -> str:
    try:
        return str(link.readlink()).removeprefix("socket:[").removesuffix("]")
    except OSError:
        return ""


def _holder(link: Path) -> str:
    process = link.parent.parent
    return f"{escape(_read(str(process / 'comm')) or '?')} ({process.name})"


def _statistics() -> Check:
    if _read("/proc/sys/kernel/bpf_stats_enabled") == "1":
        mend = "sysctl kernel.bpf_stats_enabled=0, when nobody measures"
        return Check(
            "bpf_stats", WARN, "run times are counted: some 20 ns more for each run of each program", mend
        )
    return Check(
        "bpf_stats", OK, "run times are not counted (program_stats = true counts them while tattle runs)"
    )


def _doctor(arguments: argparse.Namespace) -> int:
    report = examine(arguments.instance)
    return told(report.exit_code, lambda: _print(report.document(), as_json=arguments.json))


def _print(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    from exporters.terminal.views import print_report

    print_report(document)


COMMAND: Final = Command(
    "doctor",
    "can this host run it; if not, what to change",
    "Try everything that tattle needs, the programs themselves included, and say how to mend what fails. "
    "Exits with 3 where something does.",
    "  sudo tattle doctor",
    add_json,
    _doctor,
)
