"""The proxies of a target: of what it means now, and of the services that will be it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracer.targets.finder import Finder
from tracer.targets.proxies import of_target

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("target", ["ollama", "unit:ollama", "unit:ollama.service"])
def test_a_service_that_does_not_run_yet_has_the_proxy_of_its_files(target: str, tmp_path: Path) -> None:
    """A block that is made before the first start says so, too; of another service it says nothing."""
    for part in ("cgroup", "proc", "units"):
        (tmp_path / part).mkdir()
    (tmp_path / "units/ollama.service").write_text(
        "[Service]\nEnvironment=ALL_PROXY=socks5h://127.0.0.1:9050\n"
    )
    finder = Finder(tmp_path / "cgroup", tmp_path / "proc")
    (proxy,) = of_target(finder, target, (tmp_path / "units",))
    assert (proxy.variable, proxy.host, proxy.port, proxy.local) == ("ALL_PROXY", "127.0.0.1", 9050, True)
    assert of_target(finder, "unit:other", (tmp_path / "units",)) == ()
