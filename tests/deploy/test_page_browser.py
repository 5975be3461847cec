"""The page in a real browser: a real tattle, real traffic, hostile names. Pictures: .cache/screenshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.deploy.stage import (
    BLOCKED,
    EVIL_COMM,
    EVIL_HOST,
    PATIENCE_S,
    WATCHED,
    Stage,
    chromium,
    look,
    put_up,
    shoot,
    show_all,
    state,
    text,
    wait,
)
from tests.support.network import MORE4, PEER4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium import webdriver

CONTRAST = 4.5
"""WCAG 2.2, 1.4.3: of text and what is behind it."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Put up what is to be seen."""
    with put_up(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture(scope="module")
def browser(stage: Stage) -> Iterator[webdriver.Chrome]:
    """Start the browser when there is something to see."""
    assert stage.url
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(browser: webdriver.Chrome, stage: Stage) -> Iterator[webdriver.Chrome]:
    """Open the page anew; whatever the browser complains of, policy violations too, fails the test."""
    look(browser)
    browser.get(stage.url)
    wait(browser, lambda: state(browser) == "live")
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_the_sentence_answers_the_question(page: webdriver.Chrome, stage: Stage) -> None:
    """On top stands who sent how much to how many places; the numbers are those of `tattle flows`."""
    ours = [flow for flow in stage.tattle.read()["flows"] if flow["target"] == WATCHED]
    left = [flow for flow in ours if flow["direction"] == "out" and flow["scope"] == "internet"]
    places = {flow["name"] or flow["remote_addr"] for flow in left}
    wait(page, lambda: f"to {len(places)} places on the internet" in text(page, "h1"))
    size = f"{sum(flow['bytes_out'] for flow in left) / 1000:.0f} kB"
    assert text(page, "h1").startswith(f"{WATCHED} sent {size} to {len(places)} places")
    assert f"Nothing left for {BLOCKED}" in text(page, "#detail")
    assert "3 tries were stopped" in text(page, "#detail")


def test_locks_are_told_in_words(page: webdriver.Chrome) -> None:
    """Who is locked and who is only watched is read, not guessed from a colour."""
    cards = {card.find_element(By.TAG_NAME, "h3").text: card.text for card in cards_of(page)}
    assert "Watched" in cards[WATCHED]
    assert "Locked" in cards[BLOCKED]
    shoot(page, "page-light")


def cards_of(page: webdriver.Chrome) -> list[Any]:
    """Give the targets' cards."""
    return list(page.find_elements(By.CSS_SELECTOR, "#targets > li"))


def test_destinations_have_their_names(page: webdriver.Chrome) -> None:
    """A destination goes by the name that was asked for, with its address and the phase beside it."""
    rows = {row.find_element(By.CSS_SELECTOR, ".place .main").text: row.text for row in rows_of(page)}
    assert "pulling a model" in rows["registry.ollama.ai:443"]
    assert MORE4[1] in rows["registry.ollama.ai:443"]
    assert "inference" in rows["telemetry.example:443"]


def test_what_nobody_expects_is_said_on_top(page: webdriver.Chrome) -> None:
    """A destination that the runtime's profile does not explain is named beside the answer, and marked."""
    assert f"Not expected of {WATCHED}: telemetry.example:443" in text(page, "#notices")
    (row,) = (row for row in rows_of(page) if "telemetry.example" in row.text)
    assert "not expected" in row.text


def rows_of(page: webdriver.Chrome) -> list[Any]:
    """Give the rows of destinations."""
    return list(page.find_elements(By.CSS_SELECTOR, "#rows tr"))


def test_the_last_day_is_told_in_bars_and_in_words(page: webdriver.Chrome) -> None:
    """By hour and phase what left and what was stopped; whom it contacted, what for, and what is odd."""
    wait(page, lambda: WATCHED in text(page, "#days") and BLOCKED in text(page, "#days"))
    lanes = {
        lane.find_element(By.CSS_SELECTOR, "b").text: lane
        for lane in page.find_elements(By.CSS_SELECTOR, "#days > .lane")
    }
    said = lanes[WATCHED].find_element(By.TAG_NAME, "svg").get_attribute("aria-label")
    assert "during pulling a model" in said
    assert "during inference" in said
    bars = lanes[WATCHED].find_elements(By.CSS_SELECTOR, "svg rect.pull, svg rect.inference")
    assert len(bars) >= 2
    contacts = {
        one.find_element(By.TAG_NAME, "b").text: one.text
        for one in lanes[WATCHED].find_elements(By.TAG_NAME, "li")
    }
    assert "model manifests and layers" in contacts["registry.ollama.ai"]
    assert "not expected" in contacts["telemetry.example"]
    assert "tries stopped" in lanes[BLOCKED].text
    assert lanes[BLOCKED].find_elements(By.CSS_SELECTOR, "svg rect.denied")


def test_denials_are_listed(page: webdriver.Chrome) -> None:
    """What was stopped says where it wanted to go, and who asked."""
    said = text(page, "#denials")
    assert f"{PEER4}:53" in said
    assert "assistant" in said


def test_hostile_names_stay_text(page: webdriver.Chrome) -> None:
    """A process and a host that are named like markup are shown as they are called, and do nothing."""
    show_all(page)
    wait(page, lambda: EVIL_COMM in text(page, "#rows"))
    shown = text(page, "#rows")
    assert EVIL_HOST in shown
    assert page.find_elements(By.CSS_SELECTOR, "#pwn, #rows img") == []
    assert "pwned" not in page.title
    shoot(page, "page-hostile")


def test_a_request_in_flight_is_seen(page: webdriver.Chrome, stage: Stage) -> None:
    """While a model answers, its card says so; the strip of phases has it afterwards."""
    asked = stage.post("/api/chat", hosts=[["ollama.com", 30_000, 100]], hold=12)
    wait(page, lambda: "1 request in flight: inference" in cards_of(page)[0].text)
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, "#timelines rect.inference"))
    shoot(page, "page-inference")
    asked.communicate(timeout=PATIENCE_S)
    wait(page, lambda: "in flight" not in cards_of(page)[0].text)
    said = page.find_element(By.CSS_SELECTOR, "#timelines .lane > svg").get_attribute("aria-label")
    assert said is not None
    assert "during inference" in said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(page: webdriver.Chrome, scheme: str) -> None:
    """Every text stands out from what is behind it, in both colour schemes, as WCAG asks."""
    look(page, scheme)
    show_all(page)
    faint = page.execute_script(FAINT, CONTRAST)
    assert faint == []
    shoot(page, f"page-{scheme}-all")


FAINT = r"""
const rgb = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    if (colour.length && (colour[3] ?? 1) > 0) return colour;
  }
  return [255, 255, 255];
};
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!own || !node.checkVisibility() || node.closest(".hidden, .skip")) continue;
  const [one, other] = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (other + 0.05);
  const what = `${node.tagName} ${node.className} ${node.textContent.slice(0, 30)}`;
  if (ratio < arguments[0]) found.push(`${what}: ${ratio.toFixed(2)}`);
}
return found;
"""


@pytest.mark.parametrize("width", [360, 768])
def test_narrow_windows_need_no_sideways_scrolling(page: webdriver.Chrome, width: int) -> None:
    """On a phone all of it is there, below each other."""
    look(page, width=width, height=800)
    show_all(page)
    wait(page, lambda: EVIL_COMM in text(page, "#rows"))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert "registry.ollama.ai" in text(page, "#rows")
    shoot(page, f"page-{width}")


def test_keys_are_enough(page: webdriver.Chrome) -> None:
    """The first stop skips to what left; sorting and filtering need no mouse."""
    page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to what left"
    heading = page.find_element(By.CSS_SELECTOR, "th[data-sort=out]")
    heading.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "descending"
    sizes = [int(cell.get_attribute("title").split()[0].replace(",", "")) for cell in cells(page, "td.out")]
    assert sizes == sorted(sizes, reverse=True)
    page.find_element(By.ID, "filter").send_keys("registry")
    assert [cell.text for cell in cells(page, ".place .main")] == ["registry.ollama.ai:443"]
    page.find_element(By.ID, "filter").send_keys("no such thing")
    assert text(page, "#flows-empty") == "Nothing here matches the filter."


def cells(page: webdriver.Chrome, selector: str) -> list[Any]:
    """Give the cells of one column."""
    return list(page.find_elements(By.CSS_SELECTOR, f"#rows {selector}"))


def test_sections_have_names_for_those_who_listen(page: webdriver.Chrome) -> None:
    """Landmarks, headings, table headings and pictures are in the accessibility tree under their names."""
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = {
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node
    }
    assert {("main", ""), ("columnheader", "Sent"), ("heading", "Targets")} <= seen
    assert {role for role, _ in seen} >= {"table", "row", "cell", "image", "searchbox", "radio", "meter"}
    assert all(
        name for role, name in seen if role in {"image", "button", "searchbox", "radio", "meter", "link"}
    )


def test_a_daemon_that_has_gone_is_told(page: webdriver.Chrome, stage: Stage) -> None:
    """Old numbers say that they are old; when it is back, so is the page. Last, for it stops the daemon."""
    shoot(page, "page", whole=False)  # the two of README.md: by now there is a past to see
    look(page, "dark", width=390)
    shoot(page, "page-narrow", whole=False)
    look(page)
    said = text(page, "h1")
    stage.tattle.stop()
    wait(page, lambda: state(page) == "gone")
    assert "What was blocked stays blocked" in text(page, "#notices")
    assert text(page, "h1") == said
    shoot(page, "page-gone")
    stage.tattle.start()
    wait(page, lambda: state(page) == "live")
    wait(page, lambda: "does not answer" not in text(page, "#notices"))
    complaints = [entry["message"] for entry in page.get_log("browser")]
    assert [line for line in complaints if "net::ERR_" not in line] == []
