"""The worker's page and its document, from real workers."""

from typing import Any

import asyncpg
import httpx

from deploy.local.process import free_port
from tests.support.programs.command import Operator
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import until

EVENTS = 5
SECRET = "a-password-that-no-page-shows"
RUNNING = """
INSERT INTO outbox_tasks (kind, parameters, events, total)
VALUES ('replay', '{}', 3, 10)
"""


async def document(worker: Worker) -> dict[str, Any]:
    """Return a worker's /status.json."""
    answer = await worker.get("/status.json")
    assert answer.headers["content-type"] == "application/json"
    assert SECRET not in answer.text
    report: dict[str, Any] = answer.json()
    return report


async def test_workers_show_what_status_prints(
    database: str, connection: asyncpg.Connection, kafka: str, topic: str
) -> None:
    """Leader and standby show the relay, the ring, the topic and the tasks; `status --json` prints the same.

    The leader also shows its lag and offsets.
    """
    url = database.replace("postgres@", f"postgres:{SECRET}@")
    port = {"OUTBOX_HTTP_PORT": str(free_port())}
    with Worker(url, kafka, topic, **port) as leader:
        await leader.leading()
        with Worker(url, kafka, topic) as standby:
            await standby.wait_event("worker.state", state="standby")
            await outbox.insert_events(connection, EVENTS)
            await topics.wait_for_count(kafka, topic, EVENTS)
            await connection.execute(RUNNING)

            async def measured() -> dict[str, Any]:
                shown = await document(leader)
                states = {slot["state"] for slot in shown["slots"] or []}
                published = states == {"published", "empty"} and shown["lag_events"] == 0
                return shown if published and shown["tasks"] else {}

            shown, other = await until(measured), await document(standby)
            printed = (await Operator(leader.env).run("status", "--json")).report

    assert shown.keys() == other.keys() == printed.keys()
    for name in ("configured_delivery", "problems", "relay", "standbys", "tasks", "published"):
        assert shown[name] == printed[name]
    for name in ("configured_delivery", "problems", "relay", "standbys"):
        assert shown[name] == other[name]
    assert shown["leader"]["backend"] == printed["leader"]["backend"] == other["leader"]["backend"]
    assert (len(shown["standbys"]), shown["published"]) == (1, EVENTS)
    assert [(task["kind"], task["events"], task["total"]) for task in shown["tasks"]] == [
        ("replay", 3, 10)
    ]
    assert [slot["name"] for slot in shown["slots"]] == [f"outbox_{slot:02}" for slot in range(16)]
    assert [slot["state"] for slot in shown["slots"]] == [
        slot["state"] for slot in printed["slots"]
    ]
    assert shown["topic"]["partitions"] == len(shown["topic"]["details"]) == 12
    assert sum(each["offset"] is not None for each in shown["topic"]["details"]) > 0
    assert (shown["worker"]["state"], other["worker"]["state"]) == ("leading", "standby")
    assert (other["lag_events"], other["published"]) == (None, None)
    assert shown["worker"]["changes"] == printed["worker"]["changes"]
    assert shown["worker"]["changes"][0]["event"] == "relay.started"


async def test_page_is_served_with_its_files(worker: Worker) -> None:
    """The page and the files that it loads are there, also for HEAD; other paths and methods are not."""
    await worker.leading()
    page = await worker.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    async with httpx.AsyncClient(base_url=str(page.url)) as client:
        for path in ("/", "/page.css", "/page.js", "/status.json"):
            whole, head = await client.get(path), await client.head(path)
            assert (whole.status_code, head.status_code, head.content) == (200, 200, b"")
            assert "default-src 'none'" in whole.headers["content-security-policy"]
            assert (await client.post(path)).status_code == 405
        for path in ("/page.html", "/static/page.js", "/..%2fsettings.py", "/index.html"):
            assert (await client.get(path)).status_code == 404
