"""A window of a headless Chromium with the page of the studio."""

from __future__ import annotations

import shutil
import time

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
# Of a busy machine; nothing waits longer than it has to.
_PATIENCE = 180.0
# Nothing is looked at for its motion, and nothing but the page is wanted of the browser.
_ARGUMENTS = (
    *("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "disable-extensions"),
    *("force-prefers-reduced-motion", "disable-background-networking", "disable-component-update"),
    *("disable-sync", "no-first-run", "disable-default-apps", "disable-features=Translate"),
)


class Page:
    """A browser window that waits for what it is asked for."""

    def __init__(self, address: str, patience: float = _PATIENCE) -> None:
        assert BROWSER
        options = webdriver.ChromeOptions()
        for argument in _ARGUMENTS:
            options.add_argument(f"--{argument}")
        options.binary_location = BROWSER
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_window_size(1280, 900)
        self.address, self._patience = address, patience

    def open(self, tab: str = "generate") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.address}/#{tab}")
        self.until("document.documentElement.dataset.ready && document.querySelector('#opening')")
        self.until("document.querySelector('#opening').hidden && models() > 0")

    def until(self, condition: str) -> None:
        models = "const models = () => document.querySelectorAll('[name=sampler] option').length;"
        end = time.monotonic() + self._patience
        while not self.driver.execute_script(f"{models} return Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.1)

    def get(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def script(self, text: str, *arguments):
        return self.driver.execute_script(text, *arguments)

    def choose_model(self, name: str) -> None:
        self.script(
            "const s = document.querySelector('#model'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('change'))",
            name,
        )
        classes = str("digits" in name).lower()
        shown = "!document.querySelector('#generate [data-for=classes]').hidden"
        self.until(f"document.querySelector('#opening').hidden && {shown} == {classes}")

    def set(self, selector: str, value: object) -> None:
        self.script(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input', { bubbles: true }))",
            selector,
            value,
        )

    def show(self, tab: str) -> None:
        self.script("document.querySelector(arguments[0]).click()", f"#tab-{tab}")

    def start(self, tab: str, until: str) -> None:
        self.get(f"#{tab} [data-start]").click()
        self.until(until)

    def resize(self, width: int, height: int) -> None:
        phone = width < 500
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
