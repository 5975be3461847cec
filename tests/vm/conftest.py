"""Boot each kernel once, keep what it said for all tests, and write the table of results at the end."""

from pathlib import Path

import pytest
from images import KERNELS, Kernel, bootable, project_archive
from machine import Outcome, boot
from table import table

RESULTS = Path(__file__).with_name("RESULTS.md")
_outcomes: dict[str, Outcome] = {}


@pytest.fixture(scope="session")
def project() -> bytes:
    """Give the project's archive, the same for all guests."""
    return project_archive()


@pytest.fixture(scope="session", params=KERNELS, ids=[kernel.line for kernel in KERNELS])
def outcome(request: pytest.FixtureRequest, project: bytes) -> Outcome:
    """Give what the guest of one kernel said."""
    kernel: Kernel = request.param
    _outcomes[kernel.line] = boot(bootable(kernel, project))
    return _outcomes[kernel.line]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table; keep it when all kernels were asked."""
    if not _outcomes:
        return
    text = table(_outcomes)
    terminalreporter.write_line("")
    for line in text.splitlines():
        terminalreporter.write_line(line)
    if len(_outcomes) == len(KERNELS):
        RESULTS.write_text(
            f"# What each kernel did\n\nWritten by `make test-vm`; README.md explains the columns.\n\n{text}"
        )
