"""Profiles: every file that comes with tattle is whole and true to its form, and a bad one says where."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from tracer.errors import ConfigError, UsageError
from tracer.runtimes.keep import Kept, kept
from tracer.runtimes.profiles import SHIPPED, PhaseRule, load, read

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(SHIPPED.glob("*.toml"))
GUIDE = (SHIPPED / "README.md").read_text()
RUNTIMES = {
    *("ollama", "llama.cpp", "llamafile", "vllm", "lm-studio", "localai"),
    *("open-webui", "text-generation-webui", "jan", "gpt4all"),
    *("sglang", "tgi", "koboldcpp", "lemonade", "docker-model-runner", "ramalama"),
}
FAR = "[[hosts]]\nname = 'a.b'\npurpose = 'x'\nwhen = 'y'\n"
KEPT = FAR + "keep = ['x']\n[[purposes]]\nname = 'x'\nwhat = 'y'\nphases = ['idle']\n"
SMALL = 'name = "one"\ntitle = "One"\nchecked = "now"\n[find]\nunits = ["one.service"]\n'


def test_the_runtimes_come_with_tattle() -> None:
    """Each under its own name in a file of that name."""
    assert {path.stem for path in FILES} == set(read((SHIPPED,))) == RUNTIMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_profile_is_whole(path: Path) -> None:
    """It says by what its facts are known, nothing twice, and texts that can stand in a sentence."""
    one = load(path)
    assert re.search(r"read|seen|executed", one.checked)
    assert len({(rule.method, rule.path, rule.prefix) for rule in one.phases}) == len(one.phases)
    assert len({(host.name, host.purpose) for host in one.hosts}) == len(one.hosts)
    assert len({switch.name for switch in one.switches}) == len(one.switches)
    texts = [text for host in one.hosts for text in (host.purpose, host.when, host.off_by)]
    texts += [switch.stops for switch in one.switches] + [purpose.what for purpose in one.purposes]
    texts += [text for far in one.anywhere for text in (far.purpose, far.when, far.off_by)]
    assert not [text for text in texts if text.endswith(".") or text != text.strip() or ";" in text]
    assert all(host.purpose and host.when for host in one.hosts)
    assert not [line for line in path.read_text().splitlines() if len(line) > 110]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_host_can_be_kept(path: Path) -> None:
    """No host is out of reach of `block --keep`; `pull` is shut while a prompt is answered."""
    one = load(path)
    assert all(host.keep for host in one.hosts)
    assert not [
        purpose for purpose in one.purposes if purpose.name == "pull" and "inference" in purpose.phases
    ]


def test_kept_hosts_are_bound_to_the_phases_of_their_purposes() -> None:
    """A host of several purposes stands once, open in the phases of those that were asked for."""
    ollama = read((SHIPPED,))["ollama"]
    pull = kept(ollama, ["pull"])
    assert {one.name for one in pull} >= {"registry.ollama.ai", "*.r2.cloudflarestorage.com", "*.hf.co"}
    assert {one.phases for one in pull} == {("pull",)}
    assert kept(ollama, ["cloud"]) == (Kept("ollama.com", ("inference",), plain=False),)
    both = kept(ollama, ["account", "search"])
    assert both == (Kept("ollama.com", ("account", "inference"), plain=False),)
    with pytest.raises(UsageError, match="Ollama has no purpose 'lunch'") as error:
        kept(ollama, ["pull", "lunch"])
    assert error.value.hint == "choose of: pull, cloud, search, account, catalog"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_switch_is_read_somewhere_and_stops_something(path: Path) -> None:
    """Who sets it wants to be told whether it holds."""
    for switch in load(path).switches:
        assert switch.environment or switch.argument or switch.file or switch.api
        assert switch.stops


def test_the_guide_shows_a_profile_that_works(tmp_path: Path) -> None:
    """What stands there is taken as it stands, and uses every key that exists."""
    example = GUIDE.partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "example.toml"
    file.write_text(example)
    one = load(file)
    assert one.phases == (
        PhaseRule("POST", "/api/chat", prefix=False, phase="inference"),
        PhaseRule("GET", "/api/models/", prefix=True, phase="idle"),
    )
    document = tomllib.loads(example)
    assert set(document["find"]) == set(one.find.__struct_fields__)
    for key in ("purposes", "hosts", "anywhere"):
        assert set(document[key][0]) == set(getattr(one, key)[0].__struct_fields__)
    assert set(document["switches"][0]) == set(one.switches[0].__struct_fields__)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("colour = 1\n", "unknown key 'find.colour'"),
        ("[[hosts]]\nname = 'a.b'\npurpose = 'x'\nwhen = 'y'\nport = 1\n", "unknown key 'hosts[0].port'"),
        ("[[hosts]]\nname = 'no name'\npurpose = 'x'\nwhen = 'y'\n", "hosts[0].name: 'no name'"),
        ("[[hosts]]\nname = 'a.*.b'\npurpose = 'x'\nwhen = 'y'\n", "hosts[0].name"),
        ("[[hosts]]\nname = 'a.b'\npurpose = 'x'\nwhen = 'y'\noff = ['GONE']\n", "hosts[0].off: 'GONE'"),
        ("[[phases]]\nmethod = 'POST'\npath = '/x'\nphase = 'lunch'\n", "phases[0].phase"),
        ("[[phases]]\nmethod = 'post'\npath = '/x'\nphase = 'idle'\n", "phases[0].method: 'post'"),
        ("[[phases]]\nmethod = 'POST'\npath = '/x*y'\nphase = 'idle'\n", "phases[0].path: '/x*y'"),
        (FAR + "keep = ['lunch']\n", "hosts[0].keep: 'lunch'"),
        (FAR + "requests = ['POST /none']\n", "hosts[0].requests: 'POST /none'"),
        ("[[purposes]]\nname = 'x'\nwhat = 'y'\nphases = ['idle']\n", "purposes[0].name: 'x'"),
        (KEPT.replace("'idle'", ""), "purposes[0].phases: 'x'"),
        ("[[purposes]]\nname = 'X Y'\nwhat = 'y'\nphases = ['idle']\n", "purposes[0].name: 'X Y'"),
        ("[api]\nports = [0]\n", "api.ports"),
        ("[api]\nports = [1]\nenvironment = ['A B']\n", "api.environment: 'A B'"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(tmp_path: Path, more: str, key: str) -> None:
    """And how a profile is written stands in the guide."""
    file = tmp_path / "one.toml"
    file.write_text(SMALL + more)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(file) in error.value.message
    assert key in error.value.message
    assert "profiles/README.md" in error.value.hint


def test_own_profiles_add_and_replace(tmp_path: Path) -> None:
    """By their name, not by their file's; two of one name in one place are an error, no toss-up."""
    (tmp_path / "mine.toml").write_text(SMALL)
    (tmp_path / "better.toml").write_text(SMALL.replace('"one"', '"ollama"'))
    found = read((SHIPPED, tmp_path))
    assert set(found) == RUNTIMES | {"one"}
    assert found["ollama"].find.units == ("one.service",)
    (tmp_path / "again.toml").write_text(SMALL)
    with pytest.raises(ConfigError, match=r"mine\.toml: name: 'one'"):
        read((tmp_path,))


def test_a_profile_without_a_way_to_find_it_is_refused(tmp_path: Path) -> None:
    """It could never match anything."""
    file = tmp_path / "one.toml"
    file.write_text(SMALL.replace('units = ["one.service"]', ""))
    with pytest.raises(ConfigError, match="find: "):
        load(file)
