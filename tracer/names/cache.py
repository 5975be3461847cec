"""Which name a destination goes by, and what says so. Pure: times are given, CLOCK_BOOTTIME in ns.

By strength: what the client itself said on this very connection, what it said on another one to the same
address and port, what this process or target was told by DNS, what others on this host were told, the hosts
file. Nothing is ever guessed, and nothing is asked: there is no reverse lookup.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.model.destination import DNS, HOSTS, NAMELESS, SNI, Name, Named, Owner, Peer
from tracer.model.scope import Scope, scope

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from tracer.names.dns import Address

PORT: Final = 53  # of DNS

ENTRIES_MAX: Final = 4096  # names of addresses, in all
ENTRIES_OF_ONE: Final = 1024  # of one target or process
NAMES_OF_ADDRESS: Final = 32  # each asker's counts
SAID_MAX: Final = 2048  # sockets, and as many peers of processes
NAMES_OF_PEER: Final = 4
SHOWN_MAX: Final = 8  # names that are told of one destination
HOLD_S: Final = 60  # an answer holds for its TTL, but at least so long: as limits.OPEN_SECONDS of bpf/abi.h
FRESH_NS: Final = 3600 * 1_000_000_000  # what was said is missed for so long when it has to go
_NAMELESS: Final = frozenset({Scope.LOOPBACK, Scope.MULTICAST, Scope.HOST})


class _Told:
    """When a name was asked for first and last, and until when its answer holds."""

    __slots__ = ("asked_ns", "first_ns", "until_ns")

    def __init__(self, asked_ns: int, until_ns: int) -> None:
        self.first_ns = asked_ns
        self.asked_ns = asked_ns
        self.until_ns = until_ns


class _Said(NamedTuple):
    name: str
    ns: int
    encrypted: bool


class NameBook:
    """What is known of names: bounded, each name that had to go while it was good is counted."""

    def __init__(
        self,
        evicted: Callable[[int], None],
        hosts: Callable[[bytes], Sequence[str]] = lambda _: (),
        *,
        entries_max: int = ENTRIES_MAX,
        of_one: int = ENTRIES_OF_ONE,
        said_max: int = SAID_MAX,
    ) -> None:
        """`evicted` is told how many names went while they held; `hosts` gives the hosts file's names."""
        self._evicted = evicted
        self._hosts = hosts
        self._entries_max = entries_max
        self._of_one = of_one
        self._said_max = said_max
        self._addresses: dict[bytes, dict[tuple[Owner, str], _Told]] = {}
        self._owners: OrderedDict[Owner, dict[tuple[bytes, str], None]] = OrderedDict()
        self._entries = 0
        self._sockets: OrderedDict[Hashable, _Said] = OrderedDict()
        self._peers: OrderedDict[Peer, dict[str, _Said]] = OrderedDict()

    def __len__(self) -> int:
        """Say how many names of addresses are known by DNS."""
        return self._entries

    def told(self, owner: Owner, name: str, addresses: Iterable[Address], now_ns: int) -> None:
        """Note the answer that `owner` was given for the name that it asked for.

        Addresses of this host itself name nobody: whoever answers with them must not rename its traffic.
        """
        for packed, ttl in addresses:
            if scope(packed) not in _NAMELESS:
                self._put(owner, packed, name, _Told(now_ns, now_ns + max(ttl, HOLD_S) * 1_000_000_000))
        self._bound(now_ns)

    def _put(self, owner: Owner, packed: bytes, name: str, told: _Told) -> None:
        own = self._owners.setdefault(owner, {})
        self._owners.move_to_end(owner)
        names = self._addresses.setdefault(packed, {})
        # Taken out and put in again: the newest stands last, in both
        before = names.pop((owner, name), None)
        if before is None:
            self._entries += 1
        else:
            told.first_ns = before.first_ns
        own.pop((packed, name), None)
        names[owner, name] = told
        own[packed, name] = None
        if len(names) > NAMES_OF_ADDRESS:
            (oldest, its_name), _ = next(iter(names.items()))
            self._drop(oldest, packed, its_name, told.asked_ns)
        if len(own) > self._of_one:
            self._drop(owner, *next(iter(own)), told.asked_ns)

    def _bound(self, now_ns: int) -> None:
        while self._entries > self._entries_max:
            owner, own = next(iter(self._owners.items()))
            self._drop(owner, *next(iter(own)), now_ns)

    def _drop(self, owner: Owner, packed: bytes, name: str, now_ns: int) -> None:
        names, own = self._addresses[packed], self._owners[owner]
        gone = names.pop((owner, name))
        del own[packed, name]
        self._entries -= 1
        if not names:
            del self._addresses[packed]
        if not own:
            del self._owners[owner]
        if gone.until_ns > now_ns and not any(name == other for _, other in names):
            self._evicted(1)

    def said(self, socket: int, peer: Peer, name: str, now_ns: int, *, encrypted: bool = False) -> None:
        """Note the name that a client itself has said on a connection; a later one takes its place."""
        said = _Said(name, now_ns, encrypted)
        key = (socket, peer.remote, peer.port)
        self._sockets[key] = said
        self._sockets.move_to_end(key)
        names = self._peers.setdefault(peer, {})
        self._peers.move_to_end(peer)
        names.pop(name, None)
        names[name] = said
        gone = [names.pop(next(iter(names)))] if len(names) > NAMES_OF_PEER else []
        while len(self._peers) > self._said_max:
            gone += self._peers.popitem(last=False)[1].values()
        while len(self._sockets) > self._said_max:  # its peer still knows the name
            self._sockets.popitem(last=False)
        if fresh := sum(now_ns - one.ns < FRESH_NS for one in gone):
            self._evicted(fresh)

    def of(
        self, owner: Owner, peer: Peer, now_ns: int, *, socket: int = 0, via_loopback: bool = False
    ) -> Named:
        """Name a destination of `owner`; with `socket` as this connection knows it.

        `now_ns` is the time that is asked for: what DNS said later is not known yet. Traffic that stays on
        this host gets no name, whatever was said: it goes by its address.
        """
        this = self._sockets.get((socket, peer.remote, peer.port)) if socket else None
        said = self._said_to(peer, this, now_ns)
        if scope(peer.remote, via_loopback=via_loopback) in _NAMELESS:
            return Named(None, tuple(said)) if said else NAMELESS
        names = self._told_of(owner, peer, now_ns)
        # A connection that has not spoken yet may be for the name that was asked for since another one did
        unsaid = socket and this is None and said and names and names[0].own
        if unsaid and _age(names[0]) < _age(said[0]):
            names = [names[0], *said, *names[1:]]
        else:
            names = [*said, *names]
        names += [Name(text, HOSTS, own=False, age_ns=None) for text in self._hosts(peer.remote)]
        if not names:
            return NAMELESS
        found = {name.name: name for name in reversed(names)}  # the strongest of each name wins
        first = tuple(dict.fromkeys(found[name.name] for name in names))[:SHOWN_MAX]
        return Named(first[0], first)

    def _said_to(self, peer: Peer, this: _Said | None, now_ns: int) -> list[Name]:
        """Give what was said on this connection, then on others to the same peer, the newest first."""
        others = reversed(self._peers.get(peer, {}).values())
        said = dict.fromkeys((*((this,) if this else ()), *others))
        return [
            Name(one.name, SNI, own=True, age_ns=max(now_ns - one.ns, 0), encrypted=one.encrypted)
            for one in said
        ]

    def _told_of(self, owner: Owner, peer: Peer, now_ns: int) -> list[Name]:
        """Give what DNS had said of an address by then: this owner's first, of each the newest first.

        Who speaks to a resolver had its address from the configuration, not from an answer.
        """
        known = self._addresses.get(peer.remote)
        if not known or peer.port == PORT:
            return []
        names = [
            Name(name, DNS, whose == owner, max(now_ns - told.asked_ns, 0), told.until_ns < now_ns)
            for (whose, name), told in known.items()
            if told.first_ns <= now_ns
        ]
        names.sort(key=lambda one: (not one.own, _age(one)))
        return names


def _age(name: Name) -> int:
    return name.age_ns or 0
