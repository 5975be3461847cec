"""Which name a destination goes by: strength, age, no wrong names, and memory that stays flat."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fakes import ENUMS, packed
from tracer.host.hosts_file import HostsFile, parse
from tracer.model.destination import Peer, owner_of
from tracer.model.records import Decoder
from tracer.names.cache import (
    ENTRIES_MAX,
    ENTRIES_OF_ONE,
    HOLD_S,
    NAMES_OF_ADDRESS,
    SAID_MAX,
    SHOWN_MAX,
    NameBook,
)
from tracer.names.dns import Address

if TYPE_CHECKING:
    from tracer.model.destination import Named

SECOND = 10**9
SERVER = packed("203.0.113.7")
PEER = Peer(1, SERVER, 443)
DECODER = Decoder(ENUMS)


def book(**options: Any) -> NameBook:  # noqa: ANN401 - bounds
    """Make a book from which nothing may get lost."""
    return NameBook(lambda count: pytest.fail(f"{count} names lost"), **options)


def told(
    names: NameBook, name: str, *addresses: str, owner: str | int = 1, now: int = 0, ttl: int = 60
) -> None:
    """Answer `owner` at second `now`."""
    names.told(owner, name, [Address(packed(one), ttl) for one in addresses or ["203.0.113.7"]], now * SECOND)


def shown(named: Named) -> list[tuple[str, str, bool]]:
    """Give each name with its source and whether it is the asker's own."""
    return [(one.name, one.source, one.own) for one in named.names]


def at(names: NameBook, now: int = 1, peer: Peer = PEER, **options: Any) -> Named:  # noqa: ANN401 - as `of` has them
    """Ask for the name at second `now`, as process 1."""
    return names.of(1, peer, now * SECOND, **options)


def test_strength() -> None:
    """What the client said, then what it was told, then what others were told, then the hosts file."""
    names = book(hosts=lambda _: ("hosts.example",))
    assert shown(at(names)) == [("hosts.example", "hosts", False)]
    told(names, "others.example", owner=2)
    assert at(names).best == at(names).names[0]
    assert shown(at(names))[0] == ("others.example", "dns", False)
    told(names, "own.example")
    assert shown(at(names))[0] == ("own.example", "dns", True)
    names.said(77, PEER, "said.example", SECOND)
    assert shown(at(names)) == [
        ("said.example", "sni", True),
        ("own.example", "dns", True),
        ("others.example", "dns", False),
        ("hosts.example", "hosts", False),
    ]
    assert at(names).source == "sni"


def test_nobody_knows() -> None:
    """No name, no source, and nothing is asked."""
    assert (at(book()).best, at(book()).source, at(book()).names) == (None, "none", ())


def test_the_one_asked_for_last_is_preferred() -> None:
    """Both are kept; asking again makes a name the newest."""
    names = book()
    told(names, "a.example", now=1)
    told(names, "b.example", now=2)
    assert shown(at(names, 3))[0][0] == "b.example"
    told(names, "a.example", now=4)
    assert [name for name, _, _ in shown(at(names, 5))] == ["a.example", "b.example"]
    assert at(names, 5).names[0].age_ns == SECOND


def test_names_on_one_address_are_told_apart_by_what_is_said() -> None:
    """Each connection has its own; one that has not spoken yet may be for what was asked for since."""
    names = book()
    told(names, "a.example", now=1)
    names.said(10, PEER, "a.example", 2 * SECOND)
    told(names, "b.example", now=3)
    assert at(names, 4, socket=10).best.name == "a.example"  # type: ignore[union-attr]
    assert at(names, 4, socket=11).best.name == "b.example"  # type: ignore[union-attr]
    names.said(11, PEER, "b.example", 5 * SECOND)
    assert at(names, 6, socket=10).best.name == "a.example"  # type: ignore[union-attr]
    assert at(names, 6, socket=11).best.name == "b.example"  # type: ignore[union-attr]
    assert {name for name, _, _ in shown(at(names, 6, socket=11))} == {"a.example", "b.example"}


def test_what_is_said_stays_with_process_address_and_port() -> None:
    """Another port, address or process has not been named by it."""
    names = book()
    names.said(10, PEER, "a.example", 0)
    for other in (
        PEER._replace(port=8443),
        PEER._replace(process=2),
        PEER._replace(remote=packed("203.0.113.8")),
    ):
        assert at(names, peer=other).best is None
    assert at(names, peer=PEER).source == "sni"


def test_expired_answers_are_marked() -> None:
    """After the TTL, but not before HOLD_S seconds; a name is not forgotten for it."""
    names = book()
    told(names, "a.example", ttl=60)
    told(names, "b.example", "203.0.113.8", ttl=0)
    assert [at(names, now).names[0].expired for now in (59, 61)] == [False, True]
    other = Peer(1, packed("203.0.113.8"), 443)
    assert [at(names, now, other).names[0].expired for now in (HOLD_S - 1, HOLD_S + 1)] == [False, True]


def test_a_name_expires_when_the_kernel_closes_what_it_opened() -> None:
    """HOLD_S is OPEN_SECONDS of bpf/abi.h."""
    abi = (Path(__file__).parents[3] / "bpf" / "abi.h").read_text()
    assert f"OPEN_SECONDS = {HOLD_S}," in abi


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "224.0.0.251", "::ffff:127.0.0.1"]
)
def test_nobody_renames_loopback(address: str) -> None:
    """An answer that names this host itself is for nothing: o76."""
    names = book()
    told(names, "evil.example", address)
    assert len(names) == 0
    assert at(names, peer=Peer(1, packed(address), 443)).names == ()


def test_traffic_that_stays_here_has_no_name() -> None:
    """Neither by DNS nor by what a client says: it stands by its address, and what was said is listed."""
    names = book(hosts=lambda _: ("hosts.example",))
    told(names, "own.example")
    assert at(names, via_loopback=True).names == ()
    names.said(10, PEER, "said.example", 0)
    there = at(names, via_loopback=True, socket=10)
    assert (there.best, there.source, shown(there)) == (None, "none", [("said.example", "sni", True)])


def test_private_addresses_have_names() -> None:
    """A company's own servers are named by its own resolver."""
    names = book()
    told(names, "wiki.corp.example", "10.0.0.1")
    assert at(names, peer=Peer(1, packed("10.0.0.1"), 443)).source == "dns"


def test_a_resolver_is_not_named_by_its_answers() -> None:
    """Port 53 was not reached by a name."""
    names = book()
    told(names, "a.example")
    assert at(names, peer=PEER._replace(port=53)).best is None


def test_what_was_told_later_did_not_name_it_then() -> None:
    """An event from before the answer stays without a name."""
    names = book()
    told(names, "a.example", now=10)
    assert at(names, 9).best is None
    assert at(names, 10).best is not None


def test_a_target_is_one_asker() -> None:
    """What one process of a target was told is the whole target's own."""
    names = book()
    told(names, "a.example", owner=owner_of(5, "ollama"))
    assert names.of(owner_of(6, "ollama"), PEER, SECOND).names[0].own
    assert not names.of(owner_of(6, None), PEER, SECOND).names[0].own


def test_evictions_are_counted_exactly() -> None:
    """What still held and had to go is a loss, what had expired is none."""
    lost = 0

    def count(number: int) -> None:
        nonlocal lost
        lost += number

    names = NameBook(count, entries_max=50, of_one=20)
    for number in range(35):
        told(names, f"n{number}.example", f"198.51.100.{number}", ttl=100)
    assert (len(names), lost) == (20, 15)
    for number in range(20):
        told(names, f"m{number}.example", f"203.0.113.{number}", now=1000, ttl=100)
    assert (len(names), lost) == (20, 15)
    for owner in range(2, 102):
        told(names, "x.example", f"192.0.2.{owner}", owner=owner, now=1000)
    assert (len(names), lost) == (50, 15 + 70)


def test_one_flood_does_not_drive_out_anothers_names() -> None:
    """A process that asks for everything loses its own names only."""
    lost: list[int] = []
    names = NameBook(lost.append)
    told(names, "quiet.example", "198.51.100.1", owner="ollama")
    for number in range(3 * ENTRIES_OF_ONE):
        names.told(2, f"n{number}", [Address(number.to_bytes(2).rjust(16, b"\x20"), 60)], 0)
    assert names.of("ollama", Peer(9, packed("198.51.100.1"), 443), 1).best is not None
    assert len(lost) == 2 * ENTRIES_OF_ONE


def test_one_address_has_so_many_names() -> None:
    """The oldest goes; no more than SHOWN_MAX are told."""
    lost: list[int] = []
    names = NameBook(lost.append)
    for number in range(NAMES_OF_ADDRESS + 5):
        told(names, f"n{number}.example", now=number)
    assert sum(lost) == 5
    assert len(at(names, 100).names) == SHOWN_MAX


def test_a_name_that_others_know_is_not_lost() -> None:
    """Many processes ask for the same: the address keeps its name, and nothing is missed."""
    names = book()
    for owner in range(3 * NAMES_OF_ADDRESS):
        told(names, "popular.example", owner=owner)
    assert len(names) == NAMES_OF_ADDRESS
    assert shown(at(names)) == [("popular.example", "dns", False)]


def resident() -> int:
    """Give this process's resident memory in bytes, as proc_pid_statm(5) has it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_a_flood_leaves_memory_flat() -> None:
    """100,000 names, all of them new: the second half takes no memory, and what went is counted."""
    lost = [0]
    names = NameBook(lambda count: lost.__setitem__(0, lost[0] + count))

    def flood(start: int) -> None:
        for number in range(start, start + 50_000):
            packs = [Address((1 << 127 | number * 2 + each).to_bytes(16), 60) for each in (0, 1)]
            names.told(number % 100, f"n{number}.example", packs, number)
            names.said(number, Peer(number, packs[0].packed, 443), f"s{number}.example", number)

    flood(0)
    before = resident()
    flood(50_000)
    assert resident() - before < 4 << 20
    assert len(names) == ENTRIES_MAX
    assert lost[0] == 200_000 - ENTRIES_MAX + 100_000 - SAID_MAX


HOSTS = b"""127.0.0.1 localhost
# 198.51.100.1 commented.example
198.51.100.2 One.example alias.example # tail
2001:db8::5\tsix.example.
0.0.0.0 ads.example
198.51.100.2 more.example
nonsense line
198.51.100.9
198.51.100.3 203.0.113.1
\xff\xfe bytes.example
"""


def test_the_hosts_file() -> None:
    """Names by address, first line first; this host's own and odd lines have none."""
    assert {key: value for key, value in parse(HOSTS).items() if value} == {
        packed("198.51.100.2"): ("one.example", "alias.example", "more.example"),
        packed("2001:db8::5"): ("six.example",),
    }


def test_the_hosts_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """And its absence is no error."""
    path = tmp_path / "hosts"
    file = HostsFile(path)
    assert file(SERVER) == ()
    for text, expected in (
        (b"203.0.113.7 a.example\n", ("a.example",)),
        (b"203.0.113.7 bb.example\n", ("bb.example",)),
    ):
        path.write_bytes(text)
        file._next = 0
        assert file(SERVER) == expected
    path.unlink()
    file._next = 0
    assert file(SERVER) == ()
