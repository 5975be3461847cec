"""What the kernel tests share: a lab a module, and two daemons a session."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import engines
from tests.support.cgroups import Jail, Judge
from tests.support.daemon import Tattle, sweep
from tests.support.network import Lab
from tests.support.places import open_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


engines.use()
# Else its threads mind each program that a test forks, and some of these fail for that.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the floods last: tens of thousands of flows that they leave behind make every later look slow."""
    order = {"test_containers_real.py": 1, "test_exactness.py": 2}
    kernel = [item for item in items if item.path.parent.name == "kernel"]
    places = [place for place, item in enumerate(items) if item in kernel]
    kernel.sort(key=lambda item: order.get(item.path.name, 0))
    for place, item in zip(places, kernel, strict=True):
        items[place] = item


def take_down_when_terminated() -> None:
    """Have SIGTERM run the finalizers; a child of this process (pyroute2 makes some) just ends."""
    owner = os.getpid()

    def terminated(*_: object) -> None:
        if os.getpid() != owner:
            os._exit(0)
        pytest.exit("terminated")

    signal.signal(signal.SIGTERM, terminated)


@pytest.fixture(scope="session")
def scratch(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a directory that ordinary users can look into; it stays where a test has failed."""
    made = open_place("lab")
    yield made
    if not request.session.testsfailed:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _host() -> None:
    """Make sure of privileges, and take away what killed runs have left."""
    if os.geteuid():
        pytest.fail("kernel tests need root")
    take_down_when_terminated()
    sweep()


@pytest.fixture(scope="module")
def lab(scratch: Path) -> Iterator[Lab]:
    """Set a lab up; it is taken down whatever happens.

    Each module has its own: what counts every packet on a wire must not meet connections that another test
    has cut or left, which go on repeating their last packets for a minute.
    """
    made = Lab(scratch)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def plain(scratch: Path) -> Iterator[Tattle]:
    """Run a daemon as it is by default."""
    yield from _daemon(Tattle(scratch))


@pytest.fixture(scope="session")
def thorough(scratch: Path) -> Iterator[Tattle]:
    """Run a second daemon that counts loopback, too: two instances that must not meet."""
    yield from _daemon(Tattle(scratch, "--loopback"))


@pytest.fixture(name="tattle")
def a_late_daemon(scratch: Path) -> Iterator[Tattle]:
    """Hand out a daemon that the test starts itself."""
    made = Tattle(scratch)
    try:
        yield made
    finally:
        made.remove()


def _daemon(tattle: Tattle) -> Iterator[Tattle]:
    try:
        tattle.start()
        yield tattle
        tattle.stop()
    finally:
        tattle.remove()


@pytest.fixture(scope="module")
def judge(lab: Lab) -> Judge:
    """Count what arrives at the peer."""
    return Judge(lab)


@pytest.fixture(scope="module")
def jail(lab: Lab, plain: Tattle) -> Iterator[Jail]:
    """Block a cgroup, by the daemon that runs anyway."""
    made = Jail(lab, plain)
    made.block()
    yield made
    made.unblock()
