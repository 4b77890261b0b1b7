"""Drive Debian's Chromium, without a window: open pages, press keys, and look at what happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

BINARY, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
_SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class Browser:
    """A Chromium with one page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def size(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Give the page a size, and a colour scheme of the system."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a file, and wait until its scripts have run."""
        self.driver.get("about:blank")
        self.events()  # forget those of the page before
        self.driver.get(page.as_uri() + fragment)
        self.wait_for("document.documentElement.dataset.ready")

    def run(self, script: str, *arguments: object) -> Any:
        """Return the value of an expression in the page; ``arguments`` are its arguments."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression in the page is true, and return its value."""
        return WebDriverWait(self.driver, 30).until(lambda _: self.run(expression))

    def find(self, selector: str) -> WebElement:
        """Return the first element that fits a selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that fit a selector."""
        script = "[...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        found: list[str] = self.run(script, selector)
        return found

    def show(self, selector: str) -> WebElement:
        """Scroll an element to the middle of the screen."""
        element = self.find(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def hover(self, element: WebElement, x: int = 0, y: int = 0) -> None:
        """Move the pointer to a place of an element, from its middle."""
        ActionChains(self.driver).move_to_element_with_offset(element, x, y).perform()

    def hover_until(self, expression: str, element: WebElement, x: int = 0, y: int = 0) -> None:
        """Move the pointer to a place of an element until an expression in the page is true.

        What is drawn meanwhile may move the element away from under the pointer.
        """

        def hovered(_: object) -> bool:
            self.hover(element, x + 1, y)  # the page hears of a pointer only if it moves
            self.hover(element, x, y)
            return bool(self.run(expression))

        WebDriverWait(self.driver, 30).until(hovered)

    def click(self) -> None:
        """Click where the pointer is."""
        ActionChains(self.driver).click().perform()

    def drag(self, element: WebElement, start: int, distance: int) -> None:
        """Drag to the right over an element; ``start`` is a place from its middle."""
        chain = ActionChains(self.driver).move_to_element_with_offset(element, start, 0)
        chain.click_and_hold().move_by_offset(distance, 0).release().perform()

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def focused(self, expression: str) -> Any:
        """Return an expression of the element that has the focus, called ``e``."""
        return self.run(f"((e) => {expression})(document.activeElement)")

    def complaints(self) -> list[str]:
        """Return what the console says: errors, warnings, and what the page's policy has refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def events(self) -> list[dict[str, Any]]:
        """Return what the network part of the browser has reported since the last call."""
        return [json.loads(row["message"])["message"] for row in self.driver.get_log("performance")]

    def refused(self) -> list[str]:
        """Return why the browser did not send requests since the last call."""
        return [
            event["params"]["blockedReason"]
            for event in self.events()
            if event["method"] == "Network.loadingFailed" and "blockedReason" in event["params"]
        ]

    def requests(self) -> list[str]:
        """Return the URLs that the browser has asked for since the last call."""
        return [
            event["params"]["request"]["url"]
            for event in self.events()
            if event["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium, and end it with the block."""
    options = Options()
    options.binary_location = str(BINARY)
    for switch in _SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
