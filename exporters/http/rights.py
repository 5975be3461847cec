"""Who may switch: a browser that opened a one-time link which root was given.

A link's code is exchanged once for two secrets. One is a cookie, which no script reads. The other stays with
the page: browsers send the cookies of 127.0.0.1 to every port of it, so that a program which listens on
another port, the watched runtime itself for instance, could come by the cookie, but never by what the page
keeps to itself. A change needs both, and on loopback also a client of the user whose link it was.

Nothing is written to disk: a restart ends all rights. Secrets are kept as hashes, compared in constant time.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

LINK_S: Final = 600
"""Seconds for which a link is good."""
RIGHT_S: Final = 12 * 3600
"""Seconds for which a browser may switch."""
RIGHTS_MAX: Final = 8
"""Browsers at a time; the oldest loses its right."""
_SECRET: Final = 32
"""Bytes of a secret: 2**256 to try."""
WRONG_MAX: Final = 10
"""Wrong codes and secrets that are answered in a minute; the others are told that they are too many."""
CHANGES_MAX: Final = 20
"""Changes in a minute."""
MINUTE_S: Final = 60.0


def now() -> float:
    """Return seconds that also pass while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Right(NamedTuple):
    """A browser that may switch: whose it is, and until when."""

    owner: str
    uid: int | None
    page: bytes
    """The hash of what the page keeps."""
    until: float


class Pair(NamedTuple):
    """The two secrets of a browser."""

    cookie: str
    page: str


class Limit:
    """At most `most` in a minute."""

    def __init__(self, most: int, clock: Callable[[], float] = now) -> None:
        self._most = most
        self._clock = clock
        self._taken: deque[float] = deque()

    def full(self) -> bool:
        """Say whether there is no room for another."""
        while self._taken and self._taken[0] <= self._clock() - MINUTE_S:
            self._taken.popleft()
        return len(self._taken) >= self._most

    def take(self) -> bool:
        """Take a place; False where there is none."""
        if self.full():
            return False
        self._taken.append(self._clock())
        return True


class Rights:
    """The links that are open, and the browsers that have opened one."""

    def __init__(self, clock: Callable[[], float] = now) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[bytes, Right] = {}
        self._rights: dict[bytes, Right] = {}

    def link(self, owner: str, uid: int | None) -> str:
        """Return the code of a new link, for a user's browser; an older link is void."""
        code = _secret()
        with self._lock:
            self._links = {_hash(code): Right(owner, uid, b"", self._clock() + LINK_S)}
        return code

    def exchange(self, code: str, uid: int | None) -> Pair | None:
        """Take a link's code once, from a client of this user; None for a wrong, used or late one."""
        with self._lock:
            link = self._links.get(_hash(code))
            if link is None or link.until <= self._clock() or not _is_of(link, uid):
                return None
            self._links.clear()
            pair = Pair(_secret(), _secret())
            while len(self._rights) >= RIGHTS_MAX:
                del self._rights[next(iter(self._rights))]
            right = link._replace(page=_hash(pair.page), until=self._clock() + RIGHT_S)
            self._rights[_hash(pair.cookie)] = right
        return pair

    def find(self, cookie: str, page: str, uid: int | None) -> Right | None:
        """Return the right that a client has by its two secrets and its user; None: none."""
        with self._lock:
            right = self._rights.get(_hash(cookie))
        if right is None or right.until <= self._clock() or not _is_of(right, uid):
            return None
        return right if _same(right.page, _hash(page)) else None

    def end(self, cookie: str) -> None:
        """Take a browser's right away."""
        with self._lock:
            self._rights.pop(_hash(cookie), None)


def _is_of(right: Right, uid: int | None) -> bool:
    """Say whether a client may be the one that a right was given to: of its user, where both are known."""
    return right.uid is None or uid == right.uid


def _secret() -> str:
    return base64.urlsafe_b64encode(os.urandom(_SECRET)).decode().rstrip("=")


def _hash(secret: str) -> bytes:
    import hashlib  # noqa: PLC0415 - with OpenSSL, which a daemon without a browser does not need

    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _same(one: bytes, other: bytes) -> bool:
    import hmac  # noqa: PLC0415 - as above

    return hmac.compare_digest(one, other)
