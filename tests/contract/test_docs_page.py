"""The pages at /docs and /docs/events in a real browser that can reach only this machine."""

from urllib.parse import urlsplit

import httpx
import pytest
from selenium.webdriver.common.by import By

from tests.contract.browser import Browser
from tests.contract.conftest import Running


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
