"""The page's facts: sums over all flows, lists that are bounded, and an API's own traffic kept apart."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from exporters.pages import live as module
from exporters.pages.live import NEWEST, Ask, Page
from tests.support.fakes import ENUMS, FakeMaps, flow, process
from tracer.host.clock import BootClock
from tracer.model.records import Decoder
from tracer.model.rows import CgroupRow
from tracer.model.status import TargetState, Terms
from tracer.session.flows import Accounts
from tracer.targets.processes import Registry

if TYPE_CHECKING:
    from tracer.model.rows import FlowRow

OUT, IN = 0, 1
PHASE = {name.removeprefix("PHASE_").lower(): number for name, number in ENUMS["phase"].items()}
STATES = [
    TargetState("ollama", "enforce", enforced=True, processes=1, phase="idle", requests={"inference": 2})
]


class Scene:
    """A page over fake maps: process 1 is ollama, process 2 is nobody's."""

    def __init__(self, *flows: FlowRow, states: list[TargetState] | None = None) -> None:
        ours, other = process(1, b"ollama", target=7), process(2, b"curl")
        self.maps = FakeMaps(flows, (ours, other), (CgroupRow(5, 0, 0, 0, 0, b"/demo"),), flows_max=10**6)
        names = {7: "ollama"}.get
        decoder = Decoder(ENUMS)
        self.accounts = Accounts(self.maps, Registry(self.maps, ENUMS, names), decoder, BootClock())
        found = STATES if states is None else states
        terms = {"ollama": Terms("deny", ["allow x.y"])}
        ask = Ask(lambda: found, lambda: terms, list, list, lambda: ["trouble"])
        self.page = Page(self.accounts, ask, lambda: 0)

    def look(self) -> Any:  # noqa: ANN401 - JSON
        """Give what a browser gets."""
        return json.loads(self.page.json())


def test_sums_are_of_all_flows_however_many_are_listed() -> None:
    """A thousand destinations: the newest are listed, the sentence on top counts every byte of each."""
    scene = Scene(*(flow(f"198.51.{n // 250}.{n % 250 + 1}", bytes_out=10, attempts=1) for n in range(1000)))
    seen = scene.look()
    (target,) = seen["targets"]
    assert target["left"]["internet"] | {"would_deny": 0} == {
        "attempts": 1000,
        "denied": 0,
        "would_deny": 0,
        "bytes_out": 10_000,
        "bytes_in": 0,
        "payload_out": 0,
        "places": 1000,
    }
    assert (seen["count"], len(seen["flows"])) == (1000, NEWEST)


def test_a_busy_api_hides_nothing() -> None:
    """Its own clients' connections are a sum; the one that left long ago is still listed."""
    clients = [
        flow("127.0.0.1", remote_port=n, direction=IN, established=1, bytes_out=5, last_ns=9 * 10**9)
        for n in range(1000)
    ]
    seen = Scene(flow("203.0.113.7", bytes_out=3, last_ns=1), *clients).look()
    assert [row["remote_addr"] for row in seen["flows"]] == ["203.0.113.7"]
    assert seen["targets"][0]["served"] == {"connections": 1000, "bytes_out": 5000, "bytes_in": 0}


def test_strangers_do_not_push_targets_out() -> None:
    """Newer flows of other programs take the room that targets leave, and targets leave some."""
    strangers = [flow("192.0.2.9", process=2, remote_port=n, last_ns=9 * 10**9) for n in range(1, 1000)]
    ours = [flow("203.0.113.7", remote_port=n, last_ns=1) for n in range(1, 1000)]
    listed = Scene(*strangers, *ours[:20]).look()["flows"]
    assert (len(listed), sum(row["target"] == "ollama" for row in listed)) == (NEWEST, 20)
    listed = Scene(*strangers, *ours).look()["flows"]
    assert sum(row["target"] is None for row in listed) == module.OTHERS


def test_names_asked_of_a_local_resolver_are_told() -> None:
    """They stay on the machine as far as anybody saw, and yet they may carry data out."""
    scene = Scene(flow("127.0.0.53", remote_port=53, proto=17, bytes_out=60, packets_out=1))
    (target,) = scene.look()["targets"]
    assert target["local_dns"] == {"bytes_out": 60, "packets_out": 1}
    assert target["last_left"] is None
    assert len(scene.look()["flows"]) == 1


def test_loopback_is_of_no_interest_unless_denied() -> None:
    """Connections within the machine are left out; one that a policy stopped is not."""
    scene = Scene(flow("127.0.0.1", bytes_out=9), flow("127.0.0.2", attempts=2, denied=2))
    seen = scene.look()
    assert [row["remote_addr"] for row in seen["flows"]] == ["127.0.0.2"]
    assert seen["targets"][0]["left"]["loopback"]["denied"] == 2


def test_targets_say_their_lock_and_rules() -> None:
    """As the kernel says it: mode, whether it is enforced, the rules, the phase, requests in flight."""
    seen = Scene().look()
    (target,) = seen["targets"]
    assert (target["mode"], target["enforced"], target["default"]) == ("enforce", True, "deny")
    assert (target["rules"], target["phase"], target["requests"]) == (["allow x.y"], "idle", {"inference": 2})
    assert seen["ill"] == ["trouble"]
    assert {"losses", "hooks", "maps", "since", "now", "version"} <= seen.keys()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the test say how late it is, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "time_ns", lambda: int(now[0] * 1e9))
    return now


def test_many_who_look_are_one(clock: list[float]) -> None:
    """Within a second the kernel is read once, whoever asks."""
    scene = Scene(flow(bytes_out=1))
    first = scene.page.json()
    scene.maps.rows = []
    assert scene.page.json() is first
    clock[0] += 2
    assert scene.page.json() is not first


def test_the_timeline_tells_what_moved_in_which_phase(clock: list[float]) -> None:
    """Steps between looks: bytes that left and came by phase; those of its API apart; nothing twice."""
    away, api = flow(phase=PHASE["inference"]), flow("127.0.0.1", direction=IN, phase=PHASE["inference"])
    scene = Scene(away, api)
    scene.page.sample()
    for bytes_out in (100, 250):
        clock[0] += 5
        scene.maps.rows = [away._replace(bytes_out=bytes_out, bytes_in=1), api._replace(bytes_in=40)]
        scene.page.sample()
    clock[0] += 1
    scene.page.sample()  # a moment later: no step of its own
    steps = scene.look()["timeline"]
    assert [step["moved"] for step in steps] == [
        {"ollama": {"inference": [100, 1, 40]}},
        {"ollama": {"inference": [150, 0, 0]}},
    ]
    assert [step["end_ms"] - step["start_ms"] for step in steps] == [5000, 5000]
    assert {step["phases"]["ollama"] for step in steps} == {"idle"}


def test_the_timeline_is_bounded(clock: list[float]) -> None:
    """Fifteen minutes, whoever looks for however long."""
    scene = Scene(flow(bytes_out=1))
    for _ in range(2000):
        clock[0] += 4
        scene.page.sample()
    steps = scene.look()["timeline"]
    assert 0 < steps[-1]["end_ms"] - steps[0]["start_ms"] <= 15 * 60 * 1000 + 4000
    assert len(steps) <= 15 * 60 / 4 + 1


def test_without_targets_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody looks and nothing is watched by name, no flow is read."""
    scene = Scene(flow(bytes_out=1), states=[])
    monkeypatch.setattr(scene.accounts, "rows", lambda: pytest.fail("read the kernel for nobody"))
    scene.page.sample()


def test_a_closed_source_is_said() -> None:
    """While the daemon stops, the page learns that, and no half a truth."""
    scene = Scene(flow(bytes_out=1))
    scene.accounts.close()
    assert scene.look() == {"closing": True}


def test_the_page_needs_no_other_file_and_no_inline_code() -> None:
    """What index.html names is served here, and nothing in it would need an exception from the policy."""
    assets = Scene().page.assets()
    for path in ("/", "/login", "/login-again"):
        text = assets[path].make().decode()
        named = set(re.findall(r'(?:src|href)="([^"#]+)"', text)) - {"metrics", "healthz"}
        assert {f"/{name}" for name in named} <= assets.keys()
        assert not re.search(r"<style|style=|<script>|\son\w+=|https?:", text)
    script = assets["/page.js"].make().decode()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https:"):
        assert word not in script
    assert "hidden" in assets["/login"].make().decode()
    assert "<p hidden" not in assets["/login-again"].make().decode()


@pytest.mark.parametrize(
    ("found", "lasts"), [({"targets": []}, module.DAY_FRESH_S), ({"error": "no history"}, module.FRESH_S)]
)
def test_the_history_is_read_once_in_a_while(
    found: dict[str, Any], lasts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many look; where it could not be read it is soon tried again."""
    now, asked = [100.0], []
    scene = Scene()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    ask = Ask(list, dict, list, list, list, day=lambda: asked.append(now[0]) or found)  # type: ignore[func-returns-value]
    page = Page(scene.accounts, ask, lambda: 0)
    for later in (0.0, lasts * 0.9, lasts * 0.2):
        now[0] += later
        assert json.loads(page.day()) == found
    assert len(asked) == 2
