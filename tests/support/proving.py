"""Running `tattle prove` as its users do: in the lab's network, with a report."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.daemon import PATIENCE, ROOT, command, works
from tests.support.engines import made_by
from tests.support.packet_counters import die_with_parent, enter

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.network import Lab

TAMPERED = """
import functools, sys
import tracer.__main__, tracer.proof.observer as witness
{change}
sys.exit(tracer.__main__.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Proof:
    """What a run of `prove` ended with."""

    code: int
    out: str
    err: str
    report: dict[str, Any]

    @property
    def verdict(self) -> str:
        """Return the report's verdict."""
        return str(self.report["verdict"])

    def flows(self, **wanted: object) -> list[dict[str, Any]]:
        """Return the flows with these values."""
        return [flow for flow in self.report["flows"] if wanted.items() <= flow.items()]


class Prover:
    """Runs `prove` in the client's namespace; `change` is Python that is run before."""

    def __init__(self, lab: Lab, scratch: Path, instance: str) -> None:
        self.lab = lab
        self.instance = instance
        self._scratch = scratch

    def start(
        self,
        *words: str,
        options: tuple[str, ...] = (),
        cgroup: Path | None = None,
        change: str = "",
        stdin: int = subprocess.DEVNULL,
    ) -> tuple[subprocess.Popen[str], Path]:
        """Start it; returns the process and where the report will be."""
        report = self._scratch / f"proof-{secrets.token_hex(4)}.json"
        line = ["prove", "--instance", self.instance, "--report", str(report), *options]
        line += ["--", *words] if words else []
        whole = (
            [sys.executable, "-c", TAMPERED.format(change=change), *made_by(tuple(line))]
            if change
            else command(*line)
        )

        def prepare() -> None:
            die_with_parent()
            enter(self.lab.client.fd)
            if cgroup:
                (cgroup / "cgroup.procs").write_text("0")

        process = subprocess.Popen(
            whole,
            cwd=ROOT,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,  # noqa: PLW1509 - no threads here
        )
        return process, report

    def end(self, process: subprocess.Popen[str], report: Path) -> Proof:
        """Wait for its end; the report must verify, whatever its verdict is."""
        out, err = process.communicate(timeout=PATIENCE)
        assert report.exists(), err
        works("verify", str(report))
        return Proof(process.returncode, out, err, json.loads(report.read_text()))

    def run(self, *words: str, **how: Any) -> Proof:  # noqa: ANN401 - those of start()
        """Run it to its end."""
        return self.end(*self.start(*words, **how))

    def traffic(self, source: str, **arguments: object) -> list[str]:
        """Return the command of one of the lab's traffic programs."""
        name = self.lab.name(source.partition(".")[0])
        return [*self.lab.program(source, name), json.dumps(arguments)]
