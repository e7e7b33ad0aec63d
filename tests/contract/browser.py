"""A real browser that can reach only this machine."""

import base64
import json
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import presence_of_element_located
from selenium.webdriver.support.wait import WebDriverWait

from deploy.local import tools

TIMEOUT_S = 30
PHONE = 600
"""Below this width in pixels, the window is that of a phone."""
DRIVER = tools.find("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--window-size=1200,2000",
)


class Browser:
    """Chromium, and the addresses that it requested."""

    def __init__(self, profile: Path) -> None:
        options = ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.chrome = Chrome(options, ChromeService(DRIVER))

    def find(self, selector: str) -> WebElement:
        """Return an element as soon as it exists."""
        there = presence_of_element_located((By.CSS_SELECTOR, selector))
        return WebDriverWait(self.chrome, TIMEOUT_S).until(there)

    def click(self, selector: str) -> None:
        """Click an element anywhere on the page."""
        self.chrome.execute_script("arguments[0].click()", self.find(selector))

    def fill(self, selector: str, text: str) -> None:
        """Replace the text in a field."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def requested(self) -> list[str]:
        """Return the addresses requested over a network since the last call."""
        messages = [json.loads(line)["message"] for line in self._log("performance")]
        addresses = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in addresses if address.startswith(("http", "ws"))]

    def complaints(self) -> list[str]:
        """Return the errors on the browser's console, with violations of the page's policy."""
        return self._log("browser")

    def _log(self, name: str) -> list[str]:
        lines: list[dict[str, Any]] = self.chrome.get_log(name)  # type: ignore[no-untyped-call] # the library's only one
        return [line["message"] for line in lines]

    def look(self, width: int, scheme: str, picture: Path) -> None:
        """Show the page in a window of this width, light or dark, and keep a picture of all of it."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < PHONE}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        taken = self.chrome.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
        )
        picture.write_bytes(base64.b64decode(taken["data"]))
