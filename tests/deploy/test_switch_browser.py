"""The page's switch in a real browser: each control, what it does in the kernel, and who may not use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.deploy.stage import BLOCKED, WATCHED, Stage, chromium, look, put_up, shoot, state, text, wait
from tests.support.cgroups import tattle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium import webdriver
    from selenium.webdriver.remote.webelement import WebElement

HOSTS = [["ollama.com", 100, 100]] * 2
CHANGE = """
const headers = {"Content-Type": "application/json", "X-Tattle-Switch": localStorage["tattle-switch"]};
const told = await fetch("switch/change", {method: "POST", body: arguments[0], headers});
return [told.status, await told.json()];
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Put up what is to be switched."""
    with put_up(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture(scope="module")
def browser(stage: Stage) -> Iterator[webdriver.Chrome]:
    """Start a browser, and give it the right to switch."""
    with chromium() as driver:
        driver.get(link(stage))
        wait(driver, lambda: "may switch now" in text(driver, "#said"))
        yield driver


@pytest.fixture
def page(browser: webdriver.Chrome, stage: Stage) -> Iterator[webdriver.Chrome]:
    """Open the page anew, with nothing locked but what the stage has locked; no complaint may be logged."""
    look(browser)
    if WATCHED in {one["target"] for one in policies(stage)}:
        tattle(stage.tattle.instance, "unblock", WATCHED)
    browser.get(stage.url)
    wait(browser, lambda: state(browser) == "live" and pressed(browser) == "Watch only")
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def link(stage: Stage) -> str:
    """Return a new one-time link, as root is given it."""
    return tattle(stage.tattle.instance, "open").splitlines()[0]


def policies(stage: Stage) -> list[dict[str, Any]]:
    """Return the targets that have a policy, as the kernel has it."""
    return [one for one in stage.tattle.ask("status")["targets"] if one["mode"] != "observe"]


def policy(stage: Stage, target: str = WATCHED) -> dict[str, Any]:
    """Return one's policy."""
    return next(one for one in policies(stage) if one["target"] == target)


def card(page: webdriver.Chrome, target: str = WATCHED) -> WebElement:
    """Return a target's card."""
    found = page.find_elements(By.CSS_SELECTOR, "#targets > li")
    return next(one for one in found if one.find_element(By.TAG_NAME, "h3").text == target)


def button(page: webdriver.Chrome, words: str, target: str = WATCHED) -> WebElement:
    """Return a button of a target's card."""
    found = card(page, target).find_elements(By.TAG_NAME, "button")
    return next(one for one in found if one.text == words)


def pressed(page: webdriver.Chrome, target: str = WATCHED) -> str:
    """Return which lock a card shows as chosen."""
    found = card(page, target).find_elements(By.CSS_SELECTOR, "button[aria-pressed=true]")
    return ", ".join(one.text for one in found)


def press(page: webdriver.Chrome, words: str, target: str = WATCHED) -> None:
    """Press a button by keyboard, and wait until the page says what came of it."""
    page.execute_script("document.getElementById('said').textContent = ''")
    button(page, words, target).send_keys(Keys.ENTER)
    wait(page, lambda: (said := text(page, "#said")) and not said.endswith("…"))


def refused(stage: Stage) -> int:
    """Have the runtime contact two hosts, and return how many were refused to it."""
    answer = stage.answer("/api/chat", hosts=HOSTS)
    return int(answer["refused"])


def test_block_and_lift(page: webdriver.Chrome, stage: Stage) -> None:
    """One press stops the runtime in the kernel, another lets it go; the page says what was done."""
    assert refused(stage) == 0
    press(page, "Block")
    assert f"{WATCHED} is blocked" in text(page, "#said").lower()
    assert policy(stage)["active"]
    assert refused(stage) == len(HOSTS)
    wait(page, lambda: pressed(page) == "Block" and "Locked" in card(page).text)
    shoot(page, "switch-blocked")
    press(page, "Watch only")
    assert "not blocked any more" in text(page, "#said")
    assert refused(stage) == 0
    wait(page, lambda: pressed(page) == "Watch only")


def test_audit(page: webdriver.Chrome, stage: Stage) -> None:
    """Audit counts and stops nothing."""
    press(page, "Audit")
    assert policy(stage)["mode"] == "audit"
    assert refused(stage) == 0
    wait(page, lambda: pressed(page) == "Audit" and "would have been stopped" in text(page, "#detail"))


def test_keep_pulls(page: webdriver.Chrome, stage: Stage) -> None:
    """Keep pulls is `tattle block ollama --keep pull`: the registry's hosts, bound to a pull."""
    press(page, "Keep pulls")
    found = policy(stage)
    assert (found["mode"], found["keep"]) == ("enforce", ["pull"])
    assert refused(stage) == len(HOSTS)
    wait(page, lambda: pressed(page) == "Keep pulls")
    assert "+pull" in card(page).text


def test_allow_for_ten_minutes(page: webdriver.Chrome, stage: Stage) -> None:
    """The lock is lifted with an end that the page shows, and is back by one press before that."""
    press(page, "Block")
    wait(page, lambda: pressed(page) == "Block")
    press(page, "Allow for 10 minutes")
    assert policy(stage)["state"] == "lifted"
    assert refused(stage) == 0
    wait(page, lambda: "Lifted" in card(page).text and "then it is locked again" in card(page).text)
    shoot(page, "switch-lifted")
    press(page, "Lock again now")
    assert policy(stage)["active"]
    assert refused(stage) == len(HOSTS)


def test_allow_what_was_stopped(page: webdriver.Chrome, stage: Stage) -> None:
    """A destination that the lock stopped is let through by one press; nothing else of the lock changes."""
    tattle(stage.tattle.instance, "block", WATCHED, "--allow", "@dns")
    assert stage.answer("/api/chat", hosts=[["registry.ollama.ai", 1, 1]]) == {"refused": 1}
    wait(page, lambda: choices(page, "#denials", "registry.ollama.ai:443"))
    shoot(page, "switch-stopped")
    choices(page, "#denials", "registry.ollama.ai:443")[0].send_keys(Keys.ENTER)
    wait(page, lambda: "2 rules" in text(page, "#said"))
    found = policy(stage)
    assert set(found["rules"]) == {"allow @dns", "allow registry.ollama.ai:443"}
    assert (found["default"], found["active"]) == ("deny", True)


def choices(page: webdriver.Chrome, where: str, place: str) -> list[WebElement]:
    """Return the button beside a destination, if there is one."""
    found = page.find_elements(By.CSS_SELECTOR, f"{where} > *")
    buttons = (
        one.find_elements(By.CSS_SELECTOR, ".choice:not([hidden])") for one in found if place in one.text
    )
    return next(buttons, [])


def test_block_what_nobody_expected(page: webdriver.Chrome, stage: Stage) -> None:
    """A destination that no profile explains is stopped by one press; all else goes on."""
    stage.answer("/api/chat", hosts=[["telemetry.example", 1, 1]])
    wait(page, lambda: choices(page, "#rows", "telemetry.example"))
    choices(page, "#rows", "telemetry.example")[0].send_keys(Keys.ENTER)
    wait(page, lambda: "default allow" in text(page, "#said"))
    assert policy(stage)["rules"] == ["deny telemetry.example"]
    assert stage.answer("/api/chat", hosts=[["telemetry.example", 1, 1]]) == {"refused": 1}
    assert refused(stage) == 0


def test_rules_are_not_lost_by_a_slip(page: webdriver.Chrome, stage: Stage) -> None:
    """To unlock a target that has rules of its own is asked again; No, the first choice, changes nothing."""
    tattle(stage.tattle.instance, "block", WATCHED, "--allow", "10.0.0.0/8:443")
    wait(page, lambda: pressed(page) == "Block")
    button(page, "Watch only").send_keys(Keys.ENTER)
    dialog = page.find_element(By.ID, "sure")
    wait(page, dialog.is_displayed)
    assert "10.0.0.0/8:443" in dialog.text
    shoot(page, "switch-sure", whole=False)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(page, lambda: not dialog.is_displayed())
    assert policy(stage)["active"]
    button(page, "Watch only").send_keys(Keys.ENTER)
    wait(page, dialog.is_displayed)
    dialog.find_element(By.CSS_SELECTOR, "button[value=yes]").click()
    wait(page, lambda: f"tattle block {WATCHED} --allow 10.0.0.0/8:443" in text(page, "#said"))


def test_what_cannot_be_done_is_said(page: webdriver.Chrome, stage: Stage) -> None:
    """An error of the command line is shown with its hint, and nothing is shown as done."""
    asked = json.dumps({"do": "lock", "target": "no such thing"})
    told = page.execute_script(CHANGE, asked)
    assert told[0] == 409
    assert "no such thing" in told[1]["error"]
    assert told[1]["hint"]
    assert {one["target"] for one in policies(stage)} == {BLOCKED}
    page.get_log("browser")  # the browser itself notes the status


def test_the_code_does_not_stay_in_the_address(page: webdriver.Chrome, stage: Stage) -> None:
    """A link is taken out of the address bar and the history at once, used or not."""
    page.get(link(stage))
    wait(page, lambda: "may switch now" in text(page, "#said"))
    assert page.current_url == stage.url
    assert page.execute_script("return document.cookie") == ""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1180, "dark"), (390, "light")])
def test_it_fits(page: webdriver.Chrome, width: int, scheme: str) -> None:
    """The switch is there on a phone, too, in both colour schemes, and needs no sideways scrolling."""
    look(page, scheme, width=width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert button(page, "Keep pulls").is_displayed()
    shoot(page, f"switch-{scheme}-{width}")


def test_buttons_have_names_for_those_who_listen(page: webdriver.Chrome) -> None:
    """The lock is a named group of buttons that say which one is pressed; what was done is announced."""
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [(one["role"]["value"], one.get("name", {}).get("value"), one) for one in nodes if "role" in one]
    assert ("group", f"Lock of {WATCHED}") in {(role, name) for role, name, _ in found}
    states = [
        next(state["value"]["value"] for state in one["properties"] if state["name"] == "pressed")
        for role, name, one in found
        if (role, name) == ("button", "Block")
    ]
    assert sorted(states) == [*["false"] * (len(states) - 1), "true"]  # of the assistant's card
    assert page.find_element(By.ID, "said").get_attribute("role") == "status"


def test_a_browser_without_the_right_only_looks(page: webdriver.Chrome, stage: Stage) -> None:
    """Given back, the right is gone: no control is left, and what it could do it cannot. Last."""
    secret = page.execute_script("return localStorage['tattle-switch']")
    page.find_element(By.ID, "leave").send_keys(Keys.ENTER)
    wait(page, lambda: "only shows" in text(page, "#said"))
    wait(page, lambda: not any(one.is_displayed() for one in page.find_elements(By.CSS_SELECTOR, ".act")))
    assert "sudo tattle open" in text(page, "#switch-said")
    page.execute_script("localStorage['tattle-switch'] = arguments[0]", secret)
    page.get(stage.url)
    wait(page, lambda: state(page) == "live")
    press(page, "Block")
    assert "no right to switch" in text(page, "#said")
    assert {one["target"] for one in policies(stage)} == {BLOCKED}
    page.get_log("browser")  # the browser itself notes the refusals
