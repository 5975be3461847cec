"""What fuzzing starts from and what it ever found: read again each time (`make fuzz` goes on from here)."""

from __future__ import annotations

import random

import pytest

from tests.unit.fuzz import CORPUS, READERS, changed, fuzz
from tracer.names import dns, quic, tls

FILES = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_corpus(path: object) -> None:
    """Every reader takes every file, also those made for others."""
    data = CORPUS.joinpath(getattr(path, "name")).read_bytes()  # noqa: B009 - parametrize has no types
    for reader in READERS.values():
        reader(data)


def test_corpus_is_worth_starting_from() -> None:
    """Each reader has files that it reads to the end."""
    assert any(dns.parse(path.read_bytes()) for path in CORPUS.glob("dns-*"))
    assert any(tls.read(path.read_bytes()).over for path in CORPUS.glob("hello-*"))
    assert any(quic.Initials(pytest.fail).read(1, path.read_bytes(), 0) for path in CORPUS.glob("quic-*"))
    assert {path.name.split("-")[0] for path in FILES} == set(READERS)


def test_errors_are_found_and_kept(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stumbles over a byte is caught, and the bytes are written down."""

    def stumble(data: bytes) -> None:
        assert b"\xff" not in data

    monkeypatch.setitem(READERS, "dns", stumble)
    monkeypatch.setattr("tests.unit.fuzz.CORPUS", tmp_path)
    with pytest.raises(SystemExit, match="AssertionError"):
        fuzz("dns", 60, random.Random(1))  # noqa: S311 - the same again each time
    (kept,) = tmp_path.iterdir()  # type: ignore[attr-defined]
    assert b"\xff" in kept.read_bytes()


def test_changes_stay_bounded() -> None:
    """However often bytes are spoiled."""
    source, data = random.Random(2), b"seed"  # noqa: S311 - likewise
    for _ in range(300):
        data = changed(data, data, source)
        assert len(data) <= 4096
