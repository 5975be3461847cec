"""Who may be asked for names: the host's resolvers and a target's own, and when nobody can say."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tracer.host.resolv_conf import HOST, OWN, asks_resolved, look
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


def test_processes_of_cgroups_below_are_asked_too(host: Host) -> None:
    """Podman, LXC, nspawn and pods have their processes below the cgroup that is the container's."""
    host.members()
    below = host.cgroup / "container" / "init.scope"
    below.mkdir(parents=True)
    (below.parent / "cgroup.procs").write_text("")
    (below / "cgroup.procs").write_text("7\n")
    host.own.write_text("nameserver 192.0.2.2\n")
    assert host.look() == ({"192.0.2.1": HOST, "192.0.2.2": OWN}, HOST | OWN)


@pytest.mark.parametrize(
    ("text", "domains"),
    [
        ("search One.example two.example.\n", ["one.example", "two.example"]),
        ("search one.example\ndomain two.example three.example\n", ["two.example"]),
        ("domain two.example\nsearch\n", []),
        ("search . 10.1.2.3 x\n", ["x"]),
        ("nameserver 192.0.2.1\n", ["of.the.host"]),
    ],
)
def test_the_search_domains(
    host: Host, text: str, domains: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """resolv.conf(5): the last line counts; without one it is what stands behind the host's name."""
    monkeypatch.setattr("socket.gethostname", lambda: "name.of.the.host")
    host.own.symlink_to(host.root / "etc" / "resolv.conf")
    host.host(text)
    assert look([host.cgroup], host.root, host.proc).search == dict.fromkeys(domains, HOST)


def test_a_containers_search_domains(host: Host) -> None:
    """Its own count beside the host's: a pod's are those of its cluster."""
    host.host("search corp.example\n")
    host.own.write_text("search default.svc.cluster.local corp.example\n")
    found = look([host.cgroup], host.root, host.proc).search
    assert found == {"corp.example": HOST | OWN, "default.svc.cluster.local": OWN}


class Hosts:
    """A host and a container with a hosts file each; the container's first process started at `began`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        (host.root / "etc" / "hosts").write_text("192.0.2.7 of.host\n")
        self.own = host.own.with_name("hosts")
        self.own.write_text("192.0.2.8 of.container\n")

    def began(self, after_s: float) -> None:
        """Have the process start so long after its hosts file was written."""
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        ticks = int((self.own.stat().st_ctime + after_s - boot) * os.sysconf("SC_CLK_TCK"))
        (self.host.proc / "7" / "stat").write_text(f"7 (a) b) S {'0 ' * 18}{ticks} 0\n")

    def names(self) -> set[str]:
        """Return all names that are found."""
        found = look([self.host.cgroup], self.host.root, self.host.proc).hosts
        return set().union(*found.values())


def test_a_containers_hosts_file_counts_as_it_was_at_its_start(host: Host) -> None:
    """A program that is root in its container may write to it: what it writes opens nothing."""
    hosts = Hosts(host)
    hosts.began(1)
    assert hosts.names() == {"of.host", "of.container"}
    hosts.began(-1)
    assert hosts.names() == {"of.host"}


def test_a_hosts_file_that_is_a_link_is_not_followed(host: Host) -> None:
    """A link in a container would lead to a file of the host's."""
    hosts = Hosts(host)
    hosts.began(1)
    hosts.own.rename(hosts.own.with_name("elsewhere"))
    hosts.own.symlink_to("elsewhere")
    hosts.began(1)
    assert hosts.names() == {"of.host"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hosts: mymachines resolve [!UNAVAIL=return] files dns\n", True),
        ("hosts: files dns # resolve\n", False),
        ("passwd: resolve\n", False),
        (None, False),
    ],
)
def test_names_asked_by_a_socket_are_known_of(text: str | None, expected: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """Where nsswitch.conf sends programs to systemd-resolved itself, rules by name see no answer."""
    (tmp_path / "etc").mkdir()
    if text is not None:
        (tmp_path / "etc/nsswitch.conf").write_text(text)
    assert asks_resolved(tmp_path) is expected


def test_a_containers_file_counts_as_it_was_at_its_start(host: Host) -> None:
    """A program in it may write to it later, and would then be told any address that it likes."""
    hosts = Hosts(host)
    host.own.write_text("nameserver 192.0.2.2\n")
    hosts.began(+60)
    seen = look([], host.root, host.proc, [host.cgroup])
    assert seen.named[packed("192.0.2.2") or b""] == OWN
    assert seen.certain & OWN
    hosts.began(-60)
    seen = look([], host.root, host.proc, [host.cgroup])
    assert packed("192.0.2.2") not in seen.named
    assert not seen.certain & OWN


def test_a_pipe_for_a_file_holds_no_reader_up(host: Host) -> None:
    """A container may put anything there."""
    os.mkfifo(host.own)
    assert host.look() == ({"192.0.2.1": HOST}, HOST)
