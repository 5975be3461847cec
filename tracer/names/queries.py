"""Questions that wait for their answers: an answer counts only on the socket that asked for it. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.names.reassembly import AGE_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.model.rows import SampleTuple
    from tracer.names.dns import Message

WAITING_MAX: Final = 4096


class Question(NamedTuple):
    """What an answer must repeat (RFC 5452 3): socket, resolver, number, name and type."""

    socket: int
    remote: bytes
    port: int
    number: int
    name: str
    kind: str


def question(head: SampleTuple, message: Message) -> Question:
    """Give what tells this question from others, or which one this message answers."""
    return Question(head.socket, head.remote, head.remote_port, message.number, message.name, message.kind)


class Lookups:
    """Questions without an answer so far, with the packet that asked; bounded."""

    def __init__(self, given_up: Callable[[], None], most: int = WAITING_MAX) -> None:
        """`given_up` is told of a question that has to go for another's sake."""
        self._given_up = given_up
        self._most = most
        self._waiting: OrderedDict[Question, SampleTuple] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, asked: Question, head: SampleTuple) -> None:
        """Note a question; one that is asked again counts from the first time."""
        self._waiting.setdefault(asked, head)
        if len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
            self._given_up()

    def answer(self, asked: Question) -> SampleTuple | None:
        """Give the packet that asked for this, once; None: nobody did."""
        return self._waiting.pop(asked, None)

    def late(self, now_ns: int) -> list[tuple[Question, SampleTuple]]:
        """Take out what has waited for longer than AGE_NS."""
        found: list[tuple[Question, SampleTuple]] = []
        while self._waiting:
            head = next(iter(self._waiting.values()))
            if now_ns - head.time_ns < AGE_NS:
                break
            found.append(self._waiting.popitem(last=False))
        return found
