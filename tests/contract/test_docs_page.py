"""The pages at /docs and /docs/events in a real browser that can reach only this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import presence_of_element_located
from selenium.webdriver.support.wait import WebDriverWait

from deploy.local import tools
from tests.contract.conftest import Running

TIMEOUT_S = 30
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


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Yield a browser with an empty profile."""
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.chrome.quit()


def test_page_shows_every_call_and_makes_one(running: Running, browser: Browser) -> None:
    """The page needs no key; with a key it reads a document, and all requests go to this machine."""
    browser.chrome.get(f"{running.url}/docs")
    browser.find("#operations-documents-documents_read")
    shown = browser.chrome.find_elements(By.CSS_SELECTOR, ".opblock")
    document = httpx.get(f"{running.url}/openapi.json").json()
    assert len(shown) == sum(len(calls) for calls in document["paths"].values())

    assert browser.chrome.find_elements(By.CSS_SELECTOR, ".errors-wrapper, .version-pragma") == []

    browser.click(".auth-wrapper .authorize")
    browser.fill("#auth-bearer-value", running.key)
    browser.click(".auth-container:has(#auth-bearer-value) .authorize")
    browser.click(".auth-btn-wrapper .btn-done")

    call = "#operations-documents-documents_read"
    browser.click(f"{call} .opblock-summary-control")
    browser.fill(f"{call} tr[data-param-name=id] input", "doc_01HY1")
    browser.click(f"{call} .execute")
    status = browser.find(f"{call} .live-responses-table .response .response-col_status")
    assert status.text.split()[0] == "200"
    answer = browser.find(f"{call} .live-responses-table .response .highlight-code")
    assert '"Document retrieved"' in answer.text

    addresses = browser.requested()
    assert f"{running.url}/v1/documents/doc_01HY1" in addresses
    assert {urlsplit(each).netloc for each in addresses} == {urlsplit(running.url).netloc}
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1200, 360])
def test_page_of_the_events(running: Running, browser: Browser, width: int) -> None:
    """A browser gets from / to the calls, to the events and back, and the index leads to each type.

    The page has no script and is no wider than the window, also that of a phone; all requests go to this
    machine.
    """
    chrome = browser.chrome
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    chrome.get(running.url)
    browser.click("nav a[href='docs/events']")
    browser.find("main h2")
    assert chrome.current_url == f"{running.url}/docs/events"
    assert chrome.find_elements(By.CSS_SELECTOR, "script") == []
    overflow = "const {scrollWidth, clientWidth} = document.documentElement; return scrollWidth - clientWidth"
    assert chrome.execute_script(overflow) == 0

    document = httpx.get(f"{running.url}/asyncapi.json").json()
    for message in document["components"]["messages"].values():
        browser.click(f"nav a[href='#{message['name']}']")
        browser.find(f"h3[id='{message['name']}']:target")
    browser.click("header a[href='../docs']")
    browser.find("#operations-documents-documents_read")

    assert {urlsplit(each).netloc for each in browser.requested()} == {urlsplit(running.url).netloc}
    assert browser.complaints() == []
