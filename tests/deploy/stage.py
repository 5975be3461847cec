"""What the page is tried on: runtimes that talk, the internet they talk to, and Debian's Chromium."""

from __future__ import annotations

import base64
import json
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.cgroups import tattle as run_tattle
from tests.support.daemon import Tattle
from tests.support.network import MORE4, PEER4, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / ".cache" / "screenshots"
STANDIN = str(Path(__file__).with_name("standin.py"))
PATIENCE_S = 40
EVIL = "<img/src=x/onerror=document.title='pwned'>"
EVIL_HOST = f"{EVIL}.example"
EVIL_COMM = "<u id=pwn>&\"'"
ADDRESSES = {
    "ollama.com": MORE4[0],
    "registry.ollama.ai": MORE4[1],
    "telemetry.example": MORE4[2],
    EVIL_HOST: MORE4[2],
}
WATCHED = "cgroup:/system.slice/ollama.service"
"""Not `ollama`: that is each Ollama of the machine, those of other test runs, too."""
BLOCKED = "unit:assistant.service"


class Stage:
    """A runtime that is watched, one that is blocked, a stranger, and the internet they talk to."""

    def __init__(self, lab: Lab, tattle: Tattle) -> None:
        self.lab, self.tattle = lab, tattle
        self.url = f"http://127.0.0.1:{tattle.port}/"

    def post(self, path: str, port: int = 11434, **order: Any) -> subprocess.Popen[str]:  # noqa: ANN401 - JSON
        """Ask a runtime's API, from its own network namespace."""
        words = ["ip", "netns", "exec", self.lab.client.name, "curl", "-sS", "--max-time", "60"]
        words += ["-d", json.dumps(order), f"http://127.0.0.1:{port}{path}"]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def answer(self, path: str, port: int = 11434, **order: Any) -> Any:  # noqa: ANN401 - JSON
        """Ask and wait for the answer."""
        out, _ = self.post(path, port, **order).communicate(timeout=PATIENCE_S)
        return json.loads(out)


@contextmanager
def put_up(scratch: Path) -> Iterator[Stage]:
    """Put it up; everything has talked when it stands."""
    for directory in (scratch, *scratch.parents[:2]):
        directory.chmod(0o755)
    lab = Lab(scratch)
    tattle = Tattle(scratch, "--target", WATCHED)
    try:
        watched = lab.cgroup("system.slice/ollama.service")
        blocked = lab.cgroup("system.slice/assistant.service")
        tattle.start()
        run_tattle(tattle.instance, "block", BLOCKED)
        internet = {"play": "internet", "addresses": ADDRESSES, "resolver": PEER4}
        lab.start(STANDIN, json.dumps(internet), name="internet", namespace=lab.peer_ns).ready()
        made = Stage(lab, tattle)
        for name, cgroup, port in (("ollama", watched, 11434), ("assistant", blocked, 11435)):
            order = {"play": "runtime", "resolver": PEER4, "port": port}
            lab.start(STANDIN, json.dumps(order), name=name, cgroup=cgroup).ready()
        _talk(made)
        yield made
    finally:
        tattle.remove()
        lab.close()


def _talk(stage: Stage) -> None:
    """Pull, ask a model that phones home meanwhile, be refused; a stranger with a hostile name talks, too."""
    stage.answer("/api/pull", hosts=[["registry.ollama.ai", 9_000, 12_000_000]])
    stage.answer("/api/chat", hosts=[["ollama.com", 60_000, 4_000], ["telemetry.example", 2_000, 100]])
    assert stage.answer("/api/chat", port=11435, hosts=[["telemetry.example", 1, 1]] * 3) == {"refused": 3}
    order = {"play": "runtime", "resolver": PEER4, "port": 11436}
    stage.lab.start(STANDIN, json.dumps(order), name=EVIL_COMM).ready()
    stage.answer("/", port=11436, hosts=[[EVIL_HOST, 10, 10]])


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Start Debian's Chromium, which may resolve nothing: it, too, likes to phone home."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for word in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("force-device-scale-factor=1", "lang=en", "window-size=1180,900"),
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def wait(browser: webdriver.Chrome, condition: Callable[[], object]) -> None:
    """Wait until something is true."""
    WebDriverWait(browser, PATIENCE_S).until(lambda _: condition())


def state(browser: webdriver.Chrome) -> str | None:
    """Tell what the page says of its connection."""
    return browser.find_element(By.TAG_NAME, "body").get_attribute("data-state")


def text(browser: webdriver.Chrome, selector: str) -> str:
    """Give what is to be read there."""
    return str(browser.find_element(By.CSS_SELECTOR, selector).text)


def look(browser: webdriver.Chrome, scheme: str = "light", width: int = 1180, height: int = 900) -> None:
    """Prefer a colour scheme, in a window of this size."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def shoot(browser: webdriver.Chrome, name: str, *, whole: bool = True) -> None:
    """Keep a picture for people to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    tall = browser.execute_script("return document.documentElement.scrollHeight")
    width = browser.execute_script("return document.documentElement.clientWidth")
    if whole:
        clip = {"x": 0, "y": 0, "width": width, "height": tall, "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip}
    else:
        options = {}
    (SHOTS / f"{name}.png").write_bytes(
        base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"])
    )


def show_all(page: webdriver.Chrome) -> None:
    """Choose to see all programs, by keyboard."""
    page.find_element(By.CSS_SELECTOR, "input[value=targets]").send_keys(Keys.ARROW_RIGHT)
