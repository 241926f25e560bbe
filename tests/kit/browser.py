"""A headless Chromium for tests of pages: real clicks, and what its console and network say.

It is Debian's: `apt-get install chromium-driver`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE = 30
"""Seconds after which a page that does nothing is a failure."""
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
)


class Browser:
    """One window, and what happened in it since it was last asked."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver

    def open(self, page: Path, fragment: str = "", width: int = 1280, dark: bool = False) -> None:
        """Load a page in a window of a width and wait until it says that it is ready."""
        self.resize(width)
        # Without motion an element is where it will be clicked.
        preferred = {"color-scheme": "dark" if dark else "light", "reduced-motion": "reduce"}
        features = [{"name": f"prefers-{k}", "value": value} for k, value in preferred.items()]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        # Another fragment of the page that is open would load nothing.
        self._driver.get("about:blank")
        self._driver.get(page.as_uri() + fragment)
        self.until(
            "document.documentElement.dataset.ready || document.documentElement.dataset.failed"
        )

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window a size, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self._driver.execute_script(f"return {expression}")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true in the page."""
        said = f"never true: {expression}"
        return WebDriverWait(self._driver, PATIENCE).until(lambda _: self.run(expression), said)

    def one(self, selector: str) -> WebElement:
        """The first element of a selector."""
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Every element of a selector."""
        return self._driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Texts of all elements of a selector, as they are shown."""
        found: list[str] = self.run(
            f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.innerText)"
        )
        return found

    def click_middle(self, selector: str) -> None:
        """Click where the middle of an element is, whatever lies above it there."""
        x, y = self.run(
            "((element) => {"
            "  element.scrollIntoView({block: 'center'});"
            "  const box = element.getBoundingClientRect();"
            "  return [box.x + box.width / 2, box.y + box.height / 2];"
            f"}})(document.querySelector({json.dumps(selector)}))"
        )
        actions = ActionBuilder(self._driver)
        actions.pointer_action.move_to_location(round(x), round(y)).click()
        actions.perform()

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        ActionChains(self._driver).send_keys(*keys).perform()

    def problems(self) -> list[str]:
        """What the console holds: errors, warnings, and whatever the page's policy refused."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for, beyond files and what the page holds itself."""
        events = [
            json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")
        ]
        asked = [
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(LOCAL)]


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a fresh profile.

    Raises:
        FileNotFoundError: it is not installed.
    """
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        raise FileNotFoundError(
            "tests in a browser need Debian's Chromium: apt-get install chromium-driver"
        )
    options = ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(programs[1])))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
