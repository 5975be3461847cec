"""Boot one guest under QEMU's emulator and read its one line of results.

KVM is not asked for: guests must boot the same in a container, on a CI runner and inside another guest.
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.vm.images import Bootable

LIMIT_SECONDS = 600
# Two processors in turns on one host thread: as fast on a busy host, and each run costs one core.
ACCELERATOR = "tcg,thread=single"
# Seen: an emulated machine on a busy host that faults within its first second. A guest that has not reached
# /init has run nothing of ours and may begin again; one that has may not: its panic is a finding.
BOOTS = 3
# Mitigations cost much when emulated, and guard against nobody here.
CMDLINE = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on net.ifnames=0"


class Outcome(NamedTuple):
    """What a guest said (`None`: nothing), its console, and how long it lived."""

    result: dict[str, Any] | None
    console: str
    seconds: float


def boot(image: Bootable, extra: str = "") -> Outcome:
    """Boot `image` until it powers off or LIMIT_SECONDS passed; `extra` goes to the kernel's command line."""
    for _ in range(BOOTS):
        outcome, started = _boot_once(image, extra)
        if started:
            break
    return outcome


def _boot_once(image: Bootable, extra: str) -> tuple[Outcome, bool]:
    with tempfile.TemporaryDirectory() as scratch:
        console, results, initramfs = (Path(scratch, name) for name in ("console", "results", "initramfs"))
        initramfs.write_bytes(image.initramfs)
        started = time.monotonic()
        _run(image, initramfs, (console, results), extra)
        seconds = time.monotonic() - started
        said = results.read_text(errors="replace") if results.exists() else ""
        outcome = Outcome(_parsed(said), console.read_text(errors="replace"), seconds)
        return outcome, said.startswith("started")


def _run(image: Bootable, initramfs: Path, serials: tuple[Path, Path], extra: str) -> None:
    command = [
        "qemu-system-x86_64",
        "-accel",
        ACCELERATOR,
        "-cpu",
        image.cpu,
        "-smp",
        "2",
        "-m",
        str(image.memory),
        "-nodefaults",
    ]
    command += ["-no-reboot", "-display", "none", "-kernel", str(image.vmlinuz), "-initrd", str(initramfs)]
    command += ["-append", f"{CMDLINE} {extra}"]
    for serial in serials:
        command += ["-serial", f"file:{serial}"]
    with subprocess.Popen(command) as machine:
        try:
            machine.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            machine.kill()


def _parsed(said: str) -> dict[str, Any] | None:
    lines = [line for line in said.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None
