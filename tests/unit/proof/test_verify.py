"""`verify`: a report that was changed in any way is found out; a true one is not."""

from __future__ import annotations

import copy
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.reports import flow, nothing, observed
from tracer.__main__ import main
from tracer.proof import canonical, signing
from tracer.proof.verify import examine

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key."""
    path = tmp_path_factory.mktemp("keys") / "prove.key"
    signing.make_key(path)
    return path


@pytest.fixture(scope="module")
def signed(key: Path) -> Json:
    """Give a signed report, as it comes back from its file."""
    report = observed(flow(), nothing(denied=2), flow(direction="in"), limits=["naïve ☎"])
    found: Json = json.loads(json.dumps(signing.sign(report, signing.load_key(key))))
    return found


def paths(value: object, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give the way to every value in a document, containers included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [before, *(path for name, one in inner for path in paths(one, (*before, name)))]


def put(document: Json, path: tuple[Any, ...], value: object) -> Json:
    """Give a copy with another value at a place."""
    changed = copy.deepcopy(document)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


def at(document: Json, path: tuple[Any, ...]) -> object:
    """Give the value at a place."""
    place: Any = document
    for step in path:
        place = place[step]
    return place


SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)


def same(one: object, other: object) -> bool:
    """Tell whether two values are the same JSON: 1 is not true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_is_found(signed: Json, data: st.DataObject) -> None:
    """Another value at any place, whatever it is, and the report is no longer good."""
    path = data.draw(st.sampled_from(paths(signed)[1:]))
    value = data.draw(VALUES)
    if same(value, at(signed, path)) or (path == ("signature",) and value is None):
        return
    assert examine(put(signed, path, value), []).wrong


def test_every_field_is_looked_after(signed: Json) -> None:
    """Each value exchanged or taken away, one by one."""
    assert examine(signed, []).wrong == ()
    for path in paths(signed)[1:]:
        if path != ("signature",):
            assert examine(put(signed, path, "another"), []).wrong, path
        parent = copy.deepcopy(at(signed, path[:-1]))
        del parent[path[-1]]  # type: ignore[attr-defined]
        changed = put(signed, path[:-1], parent) if path[:-1] else dict(parent)  # type: ignore[call-overload]
        assert examine(changed, []).wrong, path


def test_a_removed_signature_is_found_by_who_expects_one(signed: Json, key: Path) -> None:
    """Without --trust an unsigned report is consistent, and said to be unsigned."""
    bare = signed | {"signature": None}
    assert examine(bare, []).wrong == ()
    assert examine(bare, []).signer is None
    assert examine(bare, [str(key)]).wrong == ("it is not signed",)


def test_a_careful_forger_needs_the_key(signed: Json, tmp_path: Path, key: Path) -> None:
    """Everything worked out again and sealed: consistent, but not signed by who is trusted."""
    forged = observed(limits=signed["limits"])
    other = tmp_path / "other.key"
    signing.make_key(other)
    resigned = signing.sign(forged, signing.load_key(other))
    assert examine(resigned, []).wrong == ()
    assert not examine(resigned, []).known
    (wrong,) = examine(resigned, [str(key)]).wrong
    assert "no key that --trust names" in wrong
    taken = forged | {"signature": signed["signature"]}
    assert any("changed after it was signed" in one for one in examine(taken, []).wrong)


def test_a_key_is_trusted_by_fingerprint_and_by_file(signed: Json, key: Path, tmp_path: Path) -> None:
    """The fingerprint is what openssl and sha256sum say; the public key's file does as well."""
    public = tmp_path / "public.pem"
    make = ["openssl", "pkey", "-in", str(key), "-pubout"]
    subprocess.run([*make, "-out", str(public)], check=True)
    der = subprocess.run([*make, "-outform", "DER"], check=True, capture_output=True).stdout
    told = (
        subprocess.run(["sha256sum"], input=der, check=True, capture_output=True).stdout.split()[0].decode()
    )
    for trust in (told, f"sha256:{told.upper()}", str(public), str(key)):
        found = examine(signed, [trust])
        assert (found.wrong, found.known, found.signer) == ((), True, f"sha256:{told}")


def test_openssl_makes_keys(tmp_path: Path) -> None:
    """As the help page says."""
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)], check=True)
    path.chmod(0o600)
    assert examine(signing.sign(observed(), signing.load_key(path)), [str(path)]).known


UNREADABLE = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"verdict": "\xff"}',
    "a list": b"[]",
    "another document": b"{}",
    "a fraction": b'{"verdict": 1.5}',
    "a doubled key": b'{"verdict": "no-egress", "verdict": "egress"}',
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_report_is_a_usage_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two lines, code 2."""
    path = tmp_path / "report.json"
    path.write_bytes(UNREADABLE[name])
    assert main(["verify", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert main(["verify", str(tmp_path / "absent")]) == 2


@pytest.mark.parametrize("number", [1, 3])
def test_a_report_of_another_format_is_refused_by_name(
    number: int, signed: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not called wrong: the version that wrote it is named, which can verify it."""
    path = tmp_path / "other.json"
    other = {**signed, "format": number, "tool": {**signed["tool"], "version": "0.0.9"}}
    del other["keep_alives"]
    path.write_text(json.dumps(other))
    assert main(["verify", str(path)]) == 2
    first, hint = capsys.readouterr().err.splitlines()
    assert f"other.json is a report of format {number}; this version verifies format 2" in first
    assert "0.0.9" in hint


def test_exit_codes(signed: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for a good report whatever its verdict, 1 for a changed one, naming what."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps(signed, indent=3))
    assert main(["verify", str(path)]) == 0
    assert "unknown key" in capsys.readouterr().out
    path.write_text(json.dumps(put(signed, ("totals", "internet", "bytes_out"), 1)))
    assert main(["verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert "NOT GOOD" in out
    assert "totals does not follow" in out
    assert main(["verify", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["good"] is False


def test_hostile_texts_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in any place of a stranger's report stay text."""
    evil = "\x1b]0;owned\x07\u202e"
    report = observed(flow(comm=evil), command=[evil], target=evil)
    path = tmp_path / "report.json"
    for changed in (report, report | {"verdict": evil}, report | {evil: 1, "kernel": evil}):
        path.write_text(json.dumps(changed))
        main(["verify", str(path)])
        said = capsys.readouterr()
        assert not {"\x1b", "\x07", "\u202e"} & set(said.out + said.err)


def test_canonical_form_is_one() -> None:
    """Order and spaces do not matter; what has no one form is refused."""
    assert canonical.dumps({"b": 1, "a": ["ü", None, True]}) == '{"a":["ü",null,true],"b":1}'.encode()
    assert canonical.dumps(canonical.loads(b' { "b" : 2 , "a" : 1 } ')) == b'{"a":1,"b":2}'
    for bad in ({"x": 0.5}, {"x": float("nan")}, {1: 2}, {"x": "\ud800"}):
        with pytest.raises(ValueError, match=r".+"):
            canonical.dumps(bad)


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_key_that_others_can_read_is_refused(mode: int, key: Path, tmp_path: Path) -> None:
    """Whoever reads it could sign; nothing is started then."""
    copied = tmp_path / "key"
    copied.write_bytes(key.read_bytes())
    copied.chmod(mode)
    assert main(["prove", "--key", str(copied), "--", "true"]) == 2


def test_a_key_is_never_overwritten(key: Path) -> None:
    """Making one where a file is fails."""
    before = key.read_bytes()
    assert main(["prove", "--make-key", str(key)]) == 3
    assert key.read_bytes() == before
