"""What is known of a destination: its names, what says so, and why a runtime contacts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tracer.model.text import NO_NAME_SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable


SNI: Final = "sni"


DNS: Final = "dns"


HOSTS: Final = "hosts"


Owner = str | int  # a target's selector or, outside of targets, a process's id


class Name(NamedTuple):
    """One name of a destination; `own` False: it was told to another process than this one."""

    name: str
    source: str
    own: bool
    age_ns: int | None
    expired: bool = False
    encrypted: bool = False  # the hello has an encrypted one in it, which may name another


class Named(NamedTuple):
    """What a destination is called: the best name first; `best` None where none is good enough."""

    best: Name | None
    names: tuple[Name, ...]

    @property
    def source(self) -> str:
        """Give the source of the best name, `none` without one."""
        return self.best.source if self.best else NO_NAME_SOURCE

    @property
    def equals(self) -> tuple[Name, ...]:
        """Give the names as good as the best: several where a process said two of them to one address."""
        best = self.best
        return tuple(one for one in self.names if best and one.own == best.own and one.source == best.source)


NAMELESS: Final = Named(None, ())


class Peer(NamedTuple):
    """A process's remote end."""

    process: int
    remote: bytes
    port: int


def owner_of(process: int, target: str | None) -> Owner:
    """Say for whom an answer is noted: for the whole target, else for the process."""
    return target if target is not None else process


class Purpose(NamedTuple):
    """`text` None: none is known. `unexpected` None: nobody can say, the target has no profile."""

    text: str | None
    unexpected: bool | None

    def one_of_several(self) -> Purpose:
        """Say that requests of several phases were in flight, and which of them it served nothing tells."""
        return self._replace(text=f"{self.text}; {OVERLAP}") if self.text else self


NO_PHASE: Final = "unknown"
OVERLAP: Final = "several requests were in flight, for which of them cannot be told"
NO_PROFILE: Final = Purpose(None, None)


NOTHING: Final = Purpose(None, unexpected=False)


def together(found: Iterable[Purpose]) -> Purpose:
    """Explain what may be any of several: all purposes, and unexpected if one of them is."""
    several = list(found)
    texts = dict.fromkeys(one.text for one in several if one.text)
    known = [one.unexpected for one in several if one.unexpected is not None]
    return Purpose("; ".join(texts) or None, any(known) if known else None)


class Contact(NamedTuple):
    """What has to be known of a destination."""

    name: str | None
    port: int
    scope: str
    phase: str
    outward: bool  # this side has started it


class Explainer(Protocol):
    """Says why a target contacts a destination; tracer.runtimes.purposes has the one that knows profiles."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that have a profile."""

    def knows(self, target: str | None) -> bool:
        """Whether a target has a profile."""

    def of(self, target: str | None, contact: Contact) -> Purpose:
        """Explain a destination of a target."""

    def text(self, target: str | None, name: str | None) -> str | None:
        """Return why a target contacts a name, or None."""


class Unexplained:
    """The explainer without profiles."""

    targets: tuple[str, ...] = ()

    def knows(self, target: str | None) -> bool:  # noqa: ARG002 - as Explainer
        """Return False: no target has a profile."""
        return False

    def of(self, target: str | None, contact: Contact) -> Purpose:  # noqa: ARG002 - as Explainer
        """Return NO_PROFILE for every destination."""
        return NO_PROFILE

    def text(self, target: str | None, name: str | None) -> str | None:  # noqa: ARG002 - as Explainer
        """Return None: no purpose is known."""
        return None
