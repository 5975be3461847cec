"""Who may be asked for names: the host's resolvers and a target's own, and when nobody can say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracer.host.resolv_conf import HOST, OWN, look
from tracer.model.scope import packed

if TYPE_CHECKING:
    from pathlib import Path

STUBS = ("127.0.0.53", "127.0.0.54")


class Host:
    """A host in a directory, with one cgroup of one process."""

    def __init__(self, place: Path) -> None:
        self.root, self.proc, self.cgroup = place / "host", place / "proc", place / "cgroup"
        for directory in (self.root / "etc", self.proc / "7" / "root" / "etc", self.cgroup):
            directory.mkdir(parents=True)
        self.own = self.proc / "7" / "root" / "etc" / "resolv.conf"
        self.members("7")
        self.host("nameserver 192.0.2.1\n")

    def host(self, text: str) -> None:
        """Write the host's file."""
        (self.root / "etc" / "resolv.conf").write_text(text)

    def members(self, *pids: str) -> None:
        """Say who is in the cgroup."""
        (self.cgroup / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def look(self) -> tuple[dict[str, int], int]:
        """Look, and leave out the stubs, which are always the host's."""
        found = look([self.cgroup], self.root, self.proc)
        assert all(found.named.pop(address) & HOST for text in STUBS if (address := packed(text)))
        return {str(_text(address)): by for address, by in found.named.items()}, found.certain


def _text(address: bytes) -> str:
    return (
        ".".join(map(str, address[12:])) if address.startswith(bytes(10) + b"\xff\xff") else address.hex(":")
    )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host whose resolver is 192.0.2.1, and a process that sees no file of its own."""
    return Host(tmp_path)


def test_the_hosts_and_the_targets_own_are_told_apart(host: Host) -> None:
    """One that both name is named by both."""
    host.own.write_text("nameserver 192.0.2.1\nsearch x\nnameserver 192.0.2.2 # a\nnameserver\n")
    assert host.look() == ({"192.0.2.1": HOST | OWN, "192.0.2.2": OWN}, HOST | OWN)


def test_a_process_that_sees_the_hosts_file_has_none_of_its_own(host: Host) -> None:
    """Else what the host has given up would stay for the target's sake."""
    host.own.symlink_to(host.root / "etc" / "resolv.conf")
    assert host.look() == ({"192.0.2.1": HOST}, HOST | OWN)


def test_nobody_there_is_no_reason_to_forget(host: Host) -> None:
    """A service between stop and start, a process that is gone, a file that cannot be read."""
    host.own.write_text("nameserver 192.0.2.2\n")
    host.members()
    assert host.look() == ({"192.0.2.1": HOST}, HOST)
    host.members("8")
    assert host.look() == ({"192.0.2.1": HOST}, HOST)
    host.members("7")
    host.own.unlink()
    host.own.mkdir()
    assert host.look() == ({"192.0.2.1": HOST}, HOST)
    (host.cgroup / "cgroup.procs").unlink()
    assert host.look() == ({"192.0.2.1": HOST}, HOST)


def test_without_a_file_the_resolver_is_this_host(host: Host) -> None:
    """resolv.conf(5), for the host as for a container."""
    host.host("search example\n")
    assert host.look() == ({"127.0.0.1": HOST | OWN}, HOST | OWN)
