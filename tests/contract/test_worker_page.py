"""The worker's page in a real browser, in five states of real workers.

The pictures are in pytest's folder of the test, to be looked at: `make contract ARGS="--basetemp pictures"`.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest
from selenium.webdriver.support.wait import WebDriverWait

from tests.contract.browser import TIMEOUT_S, Browser
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics

EVENTS = 200
BACKLOG = 20_000
PHONE = 360
"""The width in pixels of the narrowest phones in use: nothing may scroll sideways there."""

LONGEST = 150
"""The letters that a topic's name may have."""

FAULTS = """
const wrong = [];
const check = (selector, right) => document.querySelectorAll(selector).forEach(
  (each) => right(each) || wrong.push(each.outerHTML.slice(0, 200)));
const {scrollWidth, clientWidth} = document.documentElement;
if (scrollWidth > clientWidth) wrong.push(`${scrollWidth - clientWidth} pixels too wide`);
check(".wide, p, dt, dd, td, th, figcaption", (each) => each.scrollWidth <= each.clientWidth);
check("section", (each) => each.ariaLabel || document.getElementById(each.getAttribute("aria-labelledby")));
check("svg", (each) => each.role === "img" && each.ariaLabel.length > 10);
check("figure svg", (each) => each.closest("figure").querySelector("figcaption"));
check("table", (each) => each.caption && each.tHead && each.querySelector("tbody th[scope=row]"));
check("progress", (each) => each.ariaLabel);
check("[style], style, script:not([src])", () => false);
check("#main", (each) => !/undefined|NaN|\\[object/.test(each.textContent));
return wrong;
"""


FOCUS = """
window.before = document.getElementById("lag-table");
before.open = true;
before.firstChild.focus();
"""


class Ground(NamedTuple):
    """What a worker works on, and a session of the test on its database."""

    database: str
    kafka: str
    topic: str
    connection: asyncpg.Connection

    def worker(self, **settings: str) -> Worker:
        """Return a worker, not started yet."""
        return Worker(self.database, settings.pop("kafka", self.kafka), self.topic, **settings)

    async def publish(self, worker: Worker) -> None:
        """Let a worker lead and publish events."""
        await worker.leading()
        await outbox.insert_events(self.connection, EVENTS)
        await worker.wait_published(EVENTS)


@pytest.fixture
def ground(database: str, kafka: str, topic: str, connection: asyncpg.Connection) -> Ground:
    """Return a database, a topic whose name is too long for any line, and their servers."""
    return Ground(database, kafka, topic.ljust(LONGEST, "m"), connection)


@asynccontextmanager
async def leading(ground: Ground) -> AsyncIterator[Worker]:
    """Yield a leader."""
    with ground.worker() as worker:
        await ground.publish(worker)
        yield worker


@asynccontextmanager
async def standing_by(ground: Ground) -> AsyncIterator[Worker]:
    """Yield a standby of a leader."""
    async with leading(ground):
        with ground.worker() as worker:
            await worker.wait_event("worker.state", state="standby")
            yield worker


@asynccontextmanager
async def without_kafka(ground: Ground) -> AsyncIterator[Worker]:
    """Yield a worker that has the lock and cannot reach Kafka."""
    async with leading(ground):
        pass
    await outbox.insert_events(ground.connection, EVENTS)
    with ground.worker(kafka="127.0.0.1:1") as worker:
        await worker.wait_event("worker.failing", problem="KafkaConnectionError")
        yield worker


@asynccontextmanager
async def draining(ground: Ground) -> AsyncIterator[Worker]:
    """Yield a leader with a backlog, which it publishes in pages of one event."""
    async with leading(ground):
        pass
    await outbox.insert_events(ground.connection, BACKLOG)
    with ground.worker(OUTBOX_BATCH_SIZE="1") as worker:
        await worker.leading()
        yield worker


@asynccontextmanager
async def topic_lost(ground: Ground) -> AsyncIterator[Worker]:
    """Yield a worker whose event topic was deleted."""
    async with leading(ground) as worker:
        async with topics.administration(ground.kafka) as admin:
            await admin.delete_topics([ground.topic])
        await outbox.insert_events(ground.connection, EVENTS)
        await worker.wait_event("worker.failing", problem="TopicLostError")
        yield worker


class Case(NamedTuple):
    """A state, and what its page says: in the headline, and in all of the page."""

    state: Callable[[Ground], AbstractAsyncContextManager[Worker]]
    headline: str
    text: str


CASES = (
    Case(leading, r"Leading since", rf"Published, all time\s{EVENTS}"),
    Case(standing_by, r"Standing by since .* Leader: ", r"Lag, events\sunknown"),
    Case(
        without_kafka,
        r"Unable to publish since",
        r"KafkaConnectionError.*Lag, events\s\d{3}",
    ),
    Case(draining, r"Leading since", r"Lag, events\s\d?\d,\d{3}"),
    Case(topic_lost, r"Unable to publish since", r"TopicLostError.*does not exist"),
)


@pytest.mark.parametrize("case", CASES, ids=[case.state.__name__ for case in CASES])
async def test_page_of_the_worker(
    ground: Ground, browser: Browser, tmp_path: Path, case: Case
) -> None:
    """The page shows the state, on phones and desktops, light and dark, with a text for each drawing.

    It requests nothing from elsewhere. When the worker is gone, the page says so and shows its last state.
    """
    async with case.state(ground) as worker:
        page = str((await worker.get("/")).url)
        browser.chrome.get(page)
        wait_for(browser, "#headline", case.headline)
        wait_for(browser, "main", case.text)
        wait_for(browser, "#doctor", "checks (passed|failed)")
        for width in (PHONE, 1200):
            for scheme in ("light", "dark"):
                browser.look(width, scheme, tmp_path / f"{width}-{scheme}.png")
                assert browser.chrome.execute_script(FAULTS) == []
        assert {urlsplit(each).netloc for each in browser.requested()} == {urlsplit(page).netloc}
        assert browser.complaints() == []
        headline = browser.find("#headline").text
        worker.end()
        wait_for(browser, "#stale", r"does not answer. This is its last state, of \d\d:\d\d:\d\d")
        assert browser.find("#headline").text == headline
        browser.look(PHONE, "light", tmp_path / "gone.png")


async def test_keyboard_focus_outlives_new_figures(ground: Ground, browser: Browser) -> None:
    """When new figures are drawn, an open table stays open and keeps the focus."""
    async with leading(ground) as worker:
        browser.chrome.get(str((await worker.get("/")).url))
        browser.find("#lag-table")
        browser.chrome.execute_script(FOCUS)
        WebDriverWait(browser.chrome, TIMEOUT_S).until(
            lambda _: browser.chrome.execute_script("return !window.before.isConnected")
        )
        assert browser.chrome.execute_script(
            "const now = document.getElementById('lag-table');"
            "return now.open && document.activeElement === now.firstChild"
        )


def wait_for(browser: Browser, selector: str, pattern: str) -> None:
    """Return once the text of an element matches a pattern."""
    found = re.compile(pattern, re.DOTALL)
    WebDriverWait(browser.chrome, TIMEOUT_S).until(
        lambda _: found.search(browser.find(selector).text), f"{selector} never had {pattern}"
    )
