"""One scene for all tests that ask Prometheus."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.deploy.scene import Scene, scene
from tests.support.daemon import sweep
from tests.support.network import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", name="scene")
def a_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Make it once; it is taken down whatever happens."""
    if os.geteuid():
        pytest.fail("these tests need root")
    sweep()
    scratch = tmp_path_factory.mktemp("scene")
    for directory in (scratch, *scratch.parents[:2]):
        directory.chmod(0o755)  # traffic programs become ordinary users
    lab = Lab(scratch)
    try:
        with scene(lab, scratch) as made:
            yield made
    finally:
        lab.close()
