"""Proxies: whom a program is told to go through, where that is, and which process of this host it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tracer.proof.evidence import reasons
from tracer.runtimes.proxies import beside, of_environment, of_unit, parse, proxies, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "sesame-open"  # noqa: S105 - of nobody
HERE = Path("/proc/self")


@pytest.fixture
def port() -> Iterator[int]:
    """Listen on loopback as a proxy does; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("http://127.0.0.1:3128", ("127.0.0.1", 3128)),
        (f"http://user:{PASSWORD}@proxy.example:8080/", ("proxy.example", 8080)),
        ("socks5h://localhost", ("localhost", 1080)),
        ("https://Proxy.example", ("proxy.example", 443)),
        ("proxy.example:8080", ("proxy.example", 8080)),
        ("[::1]:3128", ("::1", 3128)),
        ("http://[::1]", ("::1", 80)),
        ("", None),
        ("http://", None),
        ("http://x:99999", None),
        ("http://x:port", None),
    ],
)
def test_addresses_are_taken_apart(text: str, place: tuple[str, int] | None) -> None:
    """As curl and others read them, and never with the credentials."""
    assert parse(text) == place


def test_a_proxy_on_this_host_is_named_with_its_process(port: int) -> None:
    """And with the selector that makes it a target, too; what stands before the @ is told to nobody."""
    (proxy,) = of_environment({"HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:{port}"}, HERE)
    assert (proxy.local, proxy.server is not None) == (True, True)
    assert proxy.server is not None
    assert proxy.server.pid == os.getpid()
    text = sentence(proxy)
    assert text.startswith(f"HTTPS_PROXY sends traffic through 127.0.0.1:{port}, on this host: ")
    assert f"(pid {os.getpid()})" in text
    assert proxy.server.selector in text
    assert PASSWORD not in text + str(proxy.document)


def test_each_variable_is_told_once_for_all_that_use_it(tmp_path: Path, port: int) -> None:
    """With the processes that do; where nothing is set, nothing is told."""
    for pid in ("7", "8", "9"):
        place = tmp_path / pid
        (place / "ns").mkdir(parents=True)
        (place / "ns/net").symlink_to((HERE / "ns/net").readlink())
        (place / "environ").write_text("" if pid == "9" else f"all_proxy=socks5://localhost:{port}\0A=b")
    (tmp_path / "self").symlink_to(HERE)
    (proxy,) = proxies(tmp_path / pid for pid in ("7", "8", "9"))
    assert (proxy.variable, proxy.host, proxy.local, proxy.pids) == ("all_proxy", "localhost", True, (7, 8))
    assert proxy.server is None  # this directory has no process that listens


def test_a_name_is_looked_up_in_the_hosts_file_alone(tmp_path: Path) -> None:
    """Of the process's own files: no name server is ever asked, and then it is said that it is not known."""
    (tmp_path / "self").symlink_to(HERE)
    place = tmp_path / "7"
    (place / "ns").mkdir(parents=True)
    (place / "ns/net").symlink_to((HERE / "ns/net").readlink())
    (place / "root/etc").mkdir(parents=True)
    (place / "root/etc/hosts").write_text("127.0.0.9 near.example # far.example\n198.51.100.9 Away.example\n")
    names = {"HTTPS_PROXY": "near.example:1", "HTTP_PROXY": "away.example:1", "ALL_PROXY": "far.example:1"}
    found = {proxy.variable: proxy for proxy in of_environment(names, place)}
    assert {name: proxy.local for name, proxy in found.items()} == {
        "HTTPS_PROXY": True,
        "HTTP_PROXY": False,
        "ALL_PROXY": None,
    }
    assert sentence(found["HTTPS_PROXY"]).endswith("on this host, where nothing that can be seen listens")
    assert sentence(found["HTTP_PROXY"]).endswith("away.example:1, which is another host")
    assert "is not known" in sentence(found["ALL_PROXY"])


def test_an_own_address_of_the_host_is_here(port: int) -> None:
    """As loopback is: the packets never leave, the proxy's do."""
    (proxy,) = of_environment({"https_proxy": "http://[::1]:1"}, HERE)
    assert proxy.local is True
    (proxy,) = of_environment({"https_proxy": f"http://0.0.0.0:{port}"}, HERE)
    assert proxy.local is True


def test_a_proof_says_it_first() -> None:
    """Before what left and what did not: the traffic may have left through another process."""
    report = {"flows": [], "hooks": [], "maps": [], "losses": {}, "unseen": [], "preexisting_sockets": []}
    (proxy,) = of_environment({"HTTPS_PROXY": "http://127.0.0.1:9"}, HERE)
    said = reasons(report | {"proxies": [proxy.document]})
    assert said == [sentence(proxy), "nothing was sent beyond this host, and nothing tried to"]


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_what_goes_past_a_proxy_is_told_with_it(variable: str, port: int) -> None:
    """As it is written, since each program reads it in its own way; all of it, where all is exempt."""
    values = {"HTTPS_PROXY": f"http://127.0.0.1:{port}", variable: "localhost,.corp.example"}
    (proxy,) = of_environment(values, HERE)
    assert proxy.document["no_proxy"] == "localhost,.corp.example"
    assert sentence(proxy).endswith("; past it goes, by NO_PROXY: localhost,.corp.example")
    (proxy,) = of_environment(values | {variable: "*"}, HERE)
    assert sentence(proxy).endswith("; past it goes, by NO_PROXY: everything")
    (proxy,) = of_environment(values | {variable: " "}, HERE)
    assert proxy.no_proxy is None


def test_a_service_s_files_are_looked_at_for_its_next_start(tmp_path: Path, port: int) -> None:
    """A drop-in counts before anything runs; what runs with the same proxy already is told once."""
    unit, drop_in = "ollama.service", tmp_path / "ollama.service.d/proxy.conf"
    (tmp_path / unit).write_text("[Service]\nExecStart=/bin/true\n")
    assert of_unit(unit, (tmp_path,)) == ()
    drop_in.parent.mkdir()
    drop_in.write_text(
        f'[Service]\nEnvironment="HTTPS_PROXY=http://me:{PASSWORD}@127.0.0.1:{port}" "NO_PROXY=localhost"\n'
    )
    (proxy,) = of_unit(unit, (tmp_path,))
    assert (proxy.file, proxy.no_proxy, proxy.pids) == (str(drop_in), "localhost", ())
    text = sentence(proxy)
    assert text.startswith(
        f"HTTPS_PROXY (in {drop_in}, from the next start on) sends traffic through 127.0.0.1:"
    )
    assert PASSWORD not in text + str(proxy.document)
    now = of_environment({"HTTPS_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": "localhost"}, HERE)
    assert beside(now, (proxy,)) == now
    assert beside((), (proxy, proxy)) == (proxy,)
