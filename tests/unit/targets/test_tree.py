"""Trees of parts: what the kernel half walks decides as a path's own patterns do."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from tracer.targets.tree import Pattern, Tree, build

ROOT = 1
PARTS = st.lists(st.sampled_from(["a", "ab", "b", "abc", "a*", "*", "*c", "a*c"]), min_size=1, max_size=4)


def walk(tree: Tree, parts: list[str]) -> set[int]:
    """Walk a tree as bpf/path.bpf.h does; return the targets on the way."""
    node, found = ROOT, set()
    for part in parts:
        raw = part.encode()
        row = tree.rows.get((node, raw)) or next(
            (
                row
                for glob, row in tree.globs.items()
                if glob.node == node
                and len(raw) >= len(glob.head) + len(glob.tail)
                and raw.startswith(glob.head)
                and raw.endswith(glob.tail)
            ),
            None,
        )
        if row is None:
            return found
        found |= {*row.always, *row.asked}
        node = row.next
    return found


@given(
    st.lists(PARTS, min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "ab", "b", "abc", "x"]), max_size=4),
)
def test_text_is_in_the_targets_of_all_patterns_with_text_and_whole_stars(
    patterns: list[list[str]], path: list[str]
) -> None:
    """Whatever begins as a pattern says is in its target, where patterns overlap by `*` alone."""
    plain = [parts for parts in patterns if all("*" not in part or part == "*" for part in parts)]
    tree = build(Pattern(ROOT, tuple(parts), number) for number, parts in enumerate(plain, 1))
    wanted = {
        number
        for number, parts in enumerate(plain, 1)
        if len(parts) <= len(path) and all(map(fnmatchcase, path, parts))
    }
    assert walk(tree, path) == wanted


@given(PARTS, st.lists(st.sampled_from(["a", "ab", "b", "abc", "x"]), max_size=4))
def test_one_pattern_decides_by_itself(parts: list[str], path: list[str]) -> None:
    """With a `*` anywhere in its parts."""
    tree = build([Pattern(ROOT, tuple(parts), 1)])
    assert bool(walk(tree, path)) == (len(parts) <= len(path) and all(map(fnmatchcase, path, parts)))


def test_text_has_what_a_star_beside_it_says() -> None:
    """Text is looked up first: it must not lose the targets of a pattern that meets it as well."""
    tree = build([Pattern(ROOT, ("llama-server",), 1), Pattern(ROOT, ("llama*",), 2, asked=True)])
    assert walk(tree, ["llama-server"]) == {1, 2}
    assert walk(tree, ["llama-cli"]) == {2}
    assert walk(tree, ["ollama"]) == set()
