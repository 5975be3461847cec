"""Patterns of paths as trees of parts, in the form in which the kernel half walks them (bpf/path.bpf.h).

A part is text, or has one `*`. Where several patterns could go on from one place, the nodes stand for all of
them at once: text is looked up first, so what a `*` at the same place would say is added to it.
"""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.bpf.maps.members import Glob, PartRow

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST: Final = 16  # nodes below are roots, see enum part_table in bpf/abi.h


class Pattern(NamedTuple):
    """A path in parts, in the order of the tree `root`, whose end is in `target`."""

    root: int
    parts: tuple[str, ...]
    target: int
    asked: bool = False


class Tree(NamedTuple):
    """Rows by node and part, and patterns by node."""

    rows: dict[tuple[int, bytes], PartRow]
    globs: dict[Glob, PartRow]


_State = frozenset[tuple[Pattern, int]]


class _Builder:
    """Gives a number to each set of patterns that may go on together."""

    def __init__(self) -> None:
        self.tree = Tree({}, {})
        self._nodes: dict[_State, int] = {}
        self._todo: list[tuple[int, _State]] = []

    def build(self, patterns: Iterable[Pattern]) -> Tree:
        roots: dict[int, set[tuple[Pattern, int]]] = defaultdict(set)
        for one in patterns:
            roots[one.root].add((one, 0))
        self._todo = [(root, frozenset(state)) for root, state in sorted(roots.items())]
        while self._todo:
            self._expand(*self._todo.pop())
        return self.tree

    def _expand(self, node: int, state: _State) -> None:
        texts = {one.parts[at] for one, at in state}
        for text in sorted(texts, key=lambda text: (-len(text), text)):
            met = frozenset((one, at + 1) for one, at in state if _meets(text, one.parts[at]))
            row = self._row(met)
            if "*" in text:
                head, _, tail = text.partition("*")
                self.tree.globs[Glob(node, _raw(head), _raw(tail))] = row
            else:
                self.tree.rows[node, _raw(text)] = row

    def _row(self, met: _State) -> PartRow:
        ended = [one for one, at in met if at == len(one.parts)]
        going = frozenset((one, at) for one, at in met if at < len(one.parts))
        always = tuple(sorted({one.target for one in ended if not one.asked}))
        asked = tuple(sorted({one.target for one in ended if one.asked} - set(always)))
        return PartRow(self._node(going) if going else 0, always, asked)

    def _node(self, state: _State) -> int:
        if state not in self._nodes:
            self._nodes[state] = FIRST + len(self._nodes)
            self._todo.append((self._nodes[state], state))
        return self._nodes[state]


def _meets(text: str, part: str) -> bool:
    """Tell whether what is written `text` is met by a pattern's part; a `*` stands for itself as well."""
    return text == part or ("*" in part and fnmatchcase(text, part.replace("[", "[[]").replace("?", "[?]")))


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def build(patterns: Iterable[Pattern]) -> Tree:
    """Make the trees of these patterns."""
    return _Builder().build(patterns)
