"""Who is in which target, told to the kernel half: the one place that writes its tables of members.

For those who learn of containers, units and processes (tracer/containers, the daemon):

- `name(number, meaning)` and `unname(number)`: a target is named from now on, or no more. What is there
  already is covered when this returns, what appears later is met by the kernel half.
- `know(identifier, members)`: a container has this id (64 digits) and is in these targets, perhaps in none.
  Told before its cgroup is made, nothing is held. `forget(identifier)` when it is removed.
- `hold(on)`: cgroups of containers that nobody has told of are held from now on: their packets are dropped,
  without an error. Each is told by a notice (`notices()`), kind NOTICE_HELD_CGROUP, with its cgroup id.
- `decide(cgroup, members)`: a held cgroup is in these targets, perhaps in none; it is held no more.
- `decide_process(tgid, members)`: the same of a process (NOTICE_HELD_PROCESS).

Whoever changes policies calls `follow()` afterwards: it attaches what marks processes, or takes it away.
All of it is to be called with the lock of the policies held.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.bpf.maps.members import MemberMaps, Members, PartRow, TooManyTargetsError
from tracer.errors import HostError, KernelError
from tracer.host.cgroups import cgroup_id, walk_cgroups
from tracer.model.containers import candidate, places
from tracer.model.text import escape
from tracer.targets.finder import parse
from tracer.targets.marks import Sweep, processes_in
from tracer.targets.meaning import Meaning, meaning
from tracer.targets.tree import Pattern, Tree, build

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracer.bpf.engine import Engine
    from tracer.targets.finder import Selector, TargetBook

INTERPRETERS = ("ape", "bash", "dash", "ksh", "lua", "node", "nodejs", "perl", "php", "ruby", "sh", "zsh")
"""Programs whose first argument is the program; python, pypy and ld.so are known to bpf/program.bpf.h."""
_ID_DIGITS = 64


def unite(one: Members, other: Members) -> Members:
    """Return the members of both, those of `one` first."""
    return tuple(dict.fromkeys((*one, *other)))


class Membership:
    """The tables of members of one engine."""

    def __init__(self, engine: Engine, book: TargetBook, proc: Path | None = None) -> None:
        self._engine = engine
        self._book = book
        self._proc = proc
        self.tables = MemberMaps(engine.maps, engine.abi)
        kinds = engine.abi.enums["part_table"]
        self._roots = {name: kinds[name] for name in ("PROGRAM_ROOT", "CGROUP_ROOT", "NAME_ROOT")}
        self._kinds = kinds

    # Targets

    def meanings(self) -> dict[int, Meaning]:
        """Return what is named now, by number, as far as the selector alone tells."""
        found = {}
        for number in self.tables.named():
            text = self._book.name(number)
            if text is not None:
                found[number] = meaning(parse(text))
        return found

    def name(self, wanted: Mapping[int, Meaning], *, only: bool = False) -> None:
        """Name these targets, beside those that are named; or `only` these.

        Raises HostError where the kernel half cannot tell so many targets apart; then nothing has changed.
        """
        before = {} if only else self.meanings()
        gone = set(self.tables.named()) - wanted.keys() if only else set()
        self._apply({**before, **wanted}, fresh=dict(wanted), gone=gone)

    def unname(self, numbers: Iterable[int]) -> None:
        """Let targets go: their members are in none of them any more."""
        gone = set(numbers)
        left = {number: one for number, one in self.meanings().items() if number not in gone}
        self._apply(left, fresh={}, gone=gone)

    def _apply(self, live: Mapping[int, Meaning], *, fresh: dict[int, Meaning], gone: set[int]) -> None:
        was = self.meanings()
        if any(one.has_processes for one in live.values()):
            self._engine.follow_processes(programs=True)
            self._marking(2 if any(one.has_processes for one in fresh.values()) else 1)
        self.tables.name(live)
        try:
            self._write(live, gone)
            self._announce(live)
            if self.spread() & (fresh.keys() - was.keys()):
                raise TooManyTargetsError  # noqa: TRY301 - as what is written
        except TooManyTargetsError:
            self._undo(was)
            raise HostError(
                "one thing would be in more targets than can be told apart (4)", "unblock one of them"
            ) from None
        self._drop_marks(gone)
        Sweep(self.tables, self._proc).run(fresh)
        self.follow()

    def _undo(self, was: Mapping[int, Meaning]) -> None:
        self.tables.name(was)
        self._write(was, set())
        self.spread()
        self.follow()

    def _write(self, live: Mapping[int, Meaning], gone: set[int]) -> None:
        """Make the tables say what these targets are called; ids of containers stay, but for what is gone."""
        self._write_texts("target_paths", _called(live, "paths"))
        names = _called(live, "names")
        for text, members in self.tables.texts("target_names").items():
            if len(text) == _ID_DIGITS:
                kept = tuple(one for one in members if one not in gone)
                names[text] = unite(names.get(text, ()), kept)
        self._write_texts("target_names", names, known=True)
        self._write_tree(live)

    def _write_texts(self, table: str, wanted: Mapping[bytes, Members], *, known: bool = False) -> None:
        present = self.tables.texts(table)
        for text, members in wanted.items():
            if present.get(text) != members:
                self.tables.put_text(table, text, members, known=known and len(text) == _ID_DIGITS)
        for text in present.keys() - wanted.keys():
            self.tables.put_text(table, text, ())

    def tree(self, live: Mapping[int, Meaning]) -> Tree:
        """Return the trees that these targets need."""
        tree = build(pattern for number, one in live.items() for pattern in self._patterns(number, one))
        nothing = PartRow(0, (), ())
        for number, one in live.items():
            for table, words in (("PARTS_CLIENT", one.clients), ("PARTS_PARENT", one.parents)):
                tree.rows.update(
                    ((self._kinds[table] | number, os.fsencode(word)), nothing) for word in words
                )
        if any(one.programs for one in live.values()):
            tree.rows.update(
                ((self._kinds["PARTS_INTERPRETER"], os.fsencode(word)), nothing) for word in INTERPRETERS
            )
        return tree

    def _patterns(self, number: int, one: Meaning) -> Iterable[Pattern]:
        roots = self._roots
        for program in one.programs:
            yield Pattern(roots["PROGRAM_ROOT"], program.parts, number, program.asked)
        for path in one.patterns:
            yield Pattern(roots["CGROUP_ROOT"], tuple(path.strip("/").split("/")), number)
        for name in one.instances:
            yield Pattern(roots["NAME_ROOT"], (name,), number)

    def _write_tree(self, live: Mapping[int, Meaning]) -> None:
        """Write a tree over the old one: new rows first, then patterns, then old rows away."""
        tree, present = self.tree(live), self.tables.parts()
        for (node, part), row in tree.rows.items():
            if present.get((node, part)) != row:
                self.tables.put_part(node, part, row)
        if self.tables.globs() != tree.globs:
            self.tables.put_globs(tree.globs)
        for node, part in present.keys() - tree.rows.keys():
            self.tables.put_part(node, part, None)

    def is_told(self, number: int, one: Meaning) -> bool:
        """Tell whether the kernel half knows all that a target is called."""
        if number not in self.tables.named():
            return False
        paths, names = self.tables.texts("target_paths"), self.tables.texts("target_names")
        tree, rows, globs = self.tree({number: one}), self.tables.parts(), self.tables.globs()
        return (
            all(number in paths.get(self._key("target_paths", path), ()) for path in one.paths)
            and all(self._is_told_name(number, name, names) for name in one.names)
            and len(tree.rows) <= len(rows)
            and len(tree.globs) <= len(globs)
            and (not one.has_processes or self._engine.follows_processes)
        )

    def _is_told_name(self, number: int, name: str, names: Mapping[bytes, Members]) -> bool:
        """Tell whether it is known; a container that was forgotten (its engine is silent) would be held."""
        members = names.get(self._key("target_names", name))
        return number in members if members is not None else self.holds and candidate(name) == name

    def _key(self, table: str, text: str) -> bytes:
        return self.tables.text_key(table, os.fsencode(text)).rstrip(b"\0")

    # Containers

    def know(self, identifier: str, members: Iterable[int]) -> None:
        """Tell which targets a container is in, by its id: before its cgroup is made, or afterwards."""
        self.tables.put_text("target_names", identifier.encode(), tuple(members), known=True)

    def forget(self, identifier: str) -> None:
        """Know nothing of a container any more."""
        self.tables.put_text("target_names", identifier.encode(), ())

    def known(self) -> dict[str, Members]:
        """Return the containers that are known, by id, each with its targets."""
        texts = self.tables.texts("target_names").items()
        return {os.fsdecode(text): members for text, members in texts if len(text) == _ID_DIGITS}

    def crowded(self) -> set[str]:
        """Return the ids of the containers that are held for being in too many targets."""
        return {os.fsdecode(text) for text in self.tables.crowded("target_names")}

    def selectors(self) -> dict[int, Selector]:
        """Return the targets that are named, by number."""
        names = ((number, self._book.name(number)) for number in self.tables.named())
        return {number: parse(text) for number, text in names if text is not None}

    def candidates(self) -> dict[int, tuple[str, bool]]:
        """Return the cgroups that look like a container's own: path, and whether it is held, by id."""
        rows = ((row, os.fsdecode(row.path)) for row in self._engine.maps.cgroups())
        return {
            row.id: (path, self._is_held(row.target))
            for row, path in rows
            if candidate(path.rpartition("/")[2]) is not None
        }

    def hold_cgroup(self, cgroup: int) -> None:
        """Hold a cgroup that is there: no engine can tell whose it is."""
        row = self._engine.maps.cgroup(cgroup)
        if row is not None and not self._is_held(row.target):
            self._engine.maps.set_place(cgroup, row.target | self.tables.held_bit, row.node)
            self.spread()
            self.renew()

    @property
    def holds(self) -> bool:
        """Whether cgroups of containers that are not known are held."""
        return bool(self._engine.maps.settings.hold)

    def hold(self, *, on: bool) -> None:
        """Hold cgroups of containers that are not known, or let them be."""
        maps = self._engine.maps
        maps.settings = maps.settings._replace(hold=int(on))

    def release(self) -> None:
        """Hold nothing any more of what is held for its name: nothing concerns it."""
        known = self.known()
        for cgroup, (path, held) in self.candidates().items():
            if held and candidate(path.rpartition("/")[2]) not in known:
                self.decide(cgroup, ())

    def decide(self, cgroup: int, members: Iterable[int]) -> None:
        """Put a cgroup into these targets, beside those that it is in anyway, and hold it no more."""
        row = self._engine.maps.cgroup(cgroup)
        if row is None:
            return
        identifier = candidate(os.fsdecode(row.path).rpartition("/")[2])
        if identifier is not None:
            self.know(identifier, members)
        if row.target & self.tables.held_bit:
            self._count_held(row.held_ns)
        self.spread()
        self.renew()

    def settle_processes(self) -> None:
        """Decide on processes that are held because the kernel half could not read their arguments."""
        held = [tgid for tgid, mark in self.tables.marks().items() if mark.held]
        sweep = Sweep(self.tables, self._proc)
        for tgid in held:
            found = [number for number, one in self.meanings().items() if sweep.is_member(tgid, one)]
            self.decide_process(tgid, found)

    def decide_process(self, tgid: int, members: Iterable[int]) -> None:
        """Put a process into these targets, beside those that it is in anyway, and hold it no more."""
        mark = self.tables.mark(tgid)
        if mark is None:
            return
        self.tables.put_mark(tgid, unite(mark.members, tuple(members)), mark.start_ns)
        if mark.held:
            self._count_held(mark.held_ns)
        self.renew()

    def _count_held(self, since_ns: int) -> None:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.tables.count_held(max(now - since_ns, 0) // 1000 if since_ns else 0)

    def renew(self) -> None:
        """Have each socket asked again whose it is."""
        maps = self._engine.maps
        now = maps.settings
        maps.settings = now._replace(generation=now.generation % 0xFFFFFFFF + 1)

    # What is there

    def spread(self) -> set[int]:
        """Put each cgroup that is there into its targets; returns the targets of those in too many.

        One that is made meanwhile below one not reached yet inherits what that one had: go again.
        """
        book, crowded = _Tables(self), set[int]()
        while self._spread_once(book, crowded):
            pass
        return crowded

    def _spread_once(self, book: _Tables, crowded: set[int]) -> int:
        maps, moved = self._engine.maps, 0
        known = {row.id: row for row in maps.cgroups()}
        above: dict[bytes, tuple[Members, bool, int]] = {}
        for number, path in walk_cgroups(self._engine.root):
            parent = above.get(path.rpartition(b"/")[0] or b"/", ((), False, 0)) if path != b"/" else None
            row = known.get(number)
            was_held = bool(row and row.target & self.tables.held_bit)
            found = above[path] = book.place(path, parent, was_held=was_held)
            if row is None and not self._know(number, path):
                continue  # there is no room for it: the kernel half looks for a target above it
            target = self.tables.standing(found[0]) | (self.tables.held_bit if found[1] else 0)
            if self.tables.members(target) != found[0]:
                crowded.update(found[0])
            if row is None or (row.target, row.node) != (target, found[2]):
                moved += maps.set_place(number, target, found[2])
        return moved

    def _know(self, cgroup: int, path: bytes) -> bool:
        try:
            return self._engine.maps.add_cgroup(cgroup, path)
        except KernelError as error:
            if error.errno != errno.E2BIG:
                raise
            return False

    def covered(self, number: int, one: Meaning) -> list[int] | None:
        """Return the ids of a target's cgroups; None where the kernel has one of them not in it."""
        book, found = _Tables(self, {number: one}), []
        known = {row.id: row.target for row in self._engine.maps.cgroups()}
        above: dict[bytes, tuple[Members, bool, int]] = {}
        for cgroup, path in walk_cgroups(self._engine.root):
            parent = above.get(path.rpartition(b"/")[0] or b"/", ((), False, 0)) if path != b"/" else None
            above[path] = book.place(path, parent, was_held=False)
            if number in above[path][0]:
                if cgroup not in known or number not in self.tables.members(known[cgroup]):
                    return None
                found.append(cgroup)
        return found

    def processes(self, number: int) -> set[int]:
        """Return the processes that a target has now: those of its cgroups, and those that are marked."""
        found = {tgid for tgid, mark in self.tables.marks().items() if number in mark.members}
        inside = {row.id for row in self._engine.maps.cgroups() if number in self.tables.members(row.target)}
        for cgroup, path in walk_cgroups(self._engine.root) if inside else ():
            if cgroup in inside:
                found.update(processes_in(self._engine.root / os.fsdecode(path).lstrip("/")))
        return found

    def containers(self, number: int) -> tuple[set[str], bool]:
        """Return the containers that are in a target now, by path; True: there is nothing else in it."""
        inside = set(self.cgroups(number))
        paths = [os.fsdecode(path) for one, path in walk_cgroups(self._engine.root) if one in inside]
        found = [next(places(path), None) for path in paths]
        return {one.path for one in found if one is not None}, None not in found

    def sweep(self) -> None:
        """Mark what runs already of all targets. Needs the privileges of the start: whose program runs.

        What the kernel half has met since a target was named is marked anyway.
        """
        named = {number: one for number, one in self.meanings().items() if one.has_processes}
        if named:
            self._marking(2)
            Sweep(self.tables, self._proc).run(named)
            self.follow()

    def cgroups(self, number: int) -> list[int]:
        """Return the ids of the cgroups that a target has now, as the kernel half says."""
        rows = self._engine.maps.cgroups()
        return sorted(row.id for row in rows if number in self.tables.members(row.target))

    def shown(self, number: int) -> list[dict[str, object]]:
        """Return a target's members as `status` shows them: its outermost cgroups, processes elsewhere."""
        rows = [row for row in self._engine.maps.cgroups() if number in self.tables.members(row.target)]
        paths = {os.fsdecode(row.path): row for row in rows}
        outermost = [path for path in sorted(paths) if path.rpartition("/")[0] not in paths]
        inside = {row.id for row in rows}
        found: list[dict[str, object]] = [
            {"cgroup": escape(path), "pid": None, "comm": None, "held": self._is_held(paths[path].target)}
            for path in outermost
        ]
        for tgid, mark in sorted(self.tables.marks().items()):
            place = self._place_of(tgid)
            if number in mark.members and place is not None and place[0] not in inside:
                comm = self._comm(tgid)
                found.append({"cgroup": escape(place[1]), "pid": tgid, "comm": comm, "held": mark.held})
        return found

    def _is_held(self, target: int) -> bool:
        return bool(target & self.tables.held_bit)

    def _place_of(self, tgid: int) -> tuple[int, str] | None:
        """Return the id and the path of a process's cgroup; None where it is gone."""
        try:
            lines = ((self._proc or Path("/proc")) / str(tgid) / "cgroup").read_bytes().splitlines()
            path = next(os.fsdecode(line[3:]) for line in lines if line.startswith(b"0::"))
            return cgroup_id(self._engine.root / path.lstrip("/")), path
        except (OSError, StopIteration):
            return None

    def _comm(self, tgid: int) -> str | None:
        try:
            return escape(((self._proc or Path("/proc")) / str(tgid) / "comm").read_bytes().rstrip(b"\n"))
        except OSError:
            return None

    def _drop_marks(self, gone: set[int]) -> None:
        for tgid, mark in self.tables.marks().items() if gone else ():
            left = tuple(one for one in mark.members if one not in gone)
            if left != mark.members:
                self.tables.put_mark(tgid, left, mark.start_ns)

    # Hooks

    def follow(self) -> None:
        """Attach what marks processes where a target or a policy needs it, else take it away."""
        programs = any(one.has_processes for one in self.meanings().values())
        policed = self._engine.maps.enforcing()
        self._engine.follow_processes(programs=programs, moves=policed)
        maps = self._engine.maps
        maps.settings = maps.settings._replace(marking=int(programs or policed), policed=int(policed))
        if policed:
            Sweep(self.tables, self._proc).take_along(self._engine)
        if not (programs or policed):
            for tgid in self.tables.marks():
                self.tables.put_mark(tgid, ())

    def _marking(self, how: int) -> None:
        maps = self._engine.maps
        maps.settings = maps.settings._replace(marking=how)

    def _announce(self, live: Mapping[int, Meaning]) -> None:
        """Without this the kernel half looks no cgroup up: it asks whether there is any target at all."""
        maps = self._engine.maps
        if max(live, default=0) > maps.settings.targets:
            maps.settings = maps.settings._replace(targets=max(live))


def _called(live: Mapping[int, Meaning], what: str) -> dict[bytes, Members]:
    found: dict[bytes, Members] = {}
    for number, one in live.items():
        for text in getattr(one, what):
            raw = os.fsencode(text)
            found[raw] = unite(found.get(raw, ()), (number,))
    return found


class _Tables:
    """What bpf/cgroup.bpf.h finds for a new cgroup, found here for those that are there."""

    def __init__(self, membership: Membership, only: Mapping[int, Meaning] | None = None) -> None:
        self._tables = membership.tables
        self._roots = membership._roots  # noqa: SLF001 - the one class that belongs to it
        if only is None:
            self._paths, self._names = self._tables.texts("target_paths"), self._tables.texts("target_names")
            self._tree = Tree(self._tables.parts(), self._tables.globs())
            self._crowded = self._tables.crowded("target_names")
        else:
            self._paths, self._names = _called(only, "paths"), _called(only, "names")
            self._tree = membership.tree(only)
            self._crowded = set()

    def place(
        self, path: bytes, parent: tuple[Members, bool, int] | None, *, was_held: bool
    ) -> tuple[Members, bool, int]:
        """Return a cgroup's targets, whether it is held, and its node; `parent`: those of the one above."""
        if parent is None:
            return (), False, self._roots["CGROUP_ROOT"]
        part = path.rpartition(b"/")[2]
        found = unite(self._paths.get(path[-255:], ()), self._names.get(part, ()))
        _, instances = self._step(self._roots["NAME_ROOT"], part)
        node, patterns = self._step(parent[2], part)
        found = unite(unite(found, instances), patterns)
        identifier = candidate(os.fsdecode(part))
        held = identifier is not None and identifier.encode() in self._crowded
        if identifier is not None:
            known = self._names.get(identifier.encode())
            held |= was_held and known is None
            found = unite(found, known or ())
        return unite(found, parent[0]), held or parent[1], node

    def _step(self, node: int, part: bytes) -> tuple[int, Members]:
        row = self._tree.rows.get((node, part)) if node else None
        if row is None and node:
            row = next(
                (
                    found
                    for glob, found in self._tree.globs.items()
                    if glob.node == node
                    and part.startswith(glob.head)
                    and part.endswith(glob.tail)
                    and len(part) >= len(glob.head) + len(glob.tail)
                ),
                None,
            )
        return (row.next, row.always) if row else (0, ())
