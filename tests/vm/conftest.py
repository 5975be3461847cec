"""Boot each guest once, keep what it said for all tests, and write the table of results at the end."""

from pathlib import Path

import pytest

from tests.vm.images import GUESTS, Guest, bootable, project_archive
from tests.vm.machine import Outcome, boot
from tests.vm.table import table

RESULTS = Path(__file__).with_name("RESULTS.md")
_outcomes: dict[str, Outcome] = {}


@pytest.fixture(scope="session")
def project() -> bytes:
    """Give the project's archive, the same for all guests."""
    return project_archive()


@pytest.fixture(scope="session", params=GUESTS, ids=[guest.name for guest in GUESTS])
def outcome(request: pytest.FixtureRequest, project: bytes) -> Outcome:
    """Give what one guest said."""
    guest: Guest = request.param
    _outcomes[guest.name] = boot(bootable(guest, project))
    return _outcomes[guest.name]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table; keep it when all guests were asked."""
    if not _outcomes:
        return
    text = table(_outcomes)
    terminalreporter.write_line("")
    for line in text.splitlines():
        terminalreporter.write_line(line)
    if len(_outcomes) == len(GUESTS):
        RESULTS.write_text(
            f"# What each kernel did\n\nWritten by `make test-vm`; README.md explains the columns.\n\n{text}"
        )
