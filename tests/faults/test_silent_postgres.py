"""Postgres stops answering under load and keeps its connections open: each call is answered in time."""

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import httpx

from deploy.local.programs import create_key, service
from tests.support.faults.postgres import PostgresProxy
from tests.support.service.api import seed
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import BUSY_S, last, until

SILENT_S = 40.0
READ_S, WRITE_S = 10.0 + BUSY_S, 15.0 + BUSY_S
"""A read is answered within 10 s, a write within 15 s (OpenAPI document). Without a time limit, a call
would wait for SILENT_S."""
RECOVERY_S = 10.0 + BUSY_S
CALLERS = 40
DOCUMENTS = 20


class Callers:
    """Clients that read and write without a pause; `longest` is the longest wait by method."""

    def __init__(self, url: str, key: str) -> None:
        limits = httpx.Limits(max_connections=None)
        headers = {"X-API-KEY": key}
        self.client = httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits)
        self.longest = {"GET": 0.0, "POST": 0.0, "PUT": 0.0, "DELETE": 0.0}
        self.statuses = Counter[int]()
        self.stopping = False

    async def run(self, number: int) -> None:
        """Read or write until `stopping` is set."""
        document = f"/v1/documents/doc_{number % DOCUMENTS + 1}"
        resource = {"resource_id": f"ship_{number % DOCUMENTS + 1}"}
        calls: list[tuple[str, str, object]] = [
            ("POST", f"{document}/links", resource),
            ("PUT", document, {"display_name": f"n{number}"}),
            ("DELETE", f"{document}/links?resource_id={resource['resource_id']}", None),
        ]
        if number % 2:
            calls = [("GET", document, None), ("GET", f"{document}/links", None)]
        while not self.stopping:
            for method, path, body in calls:
                began = time.monotonic()
                answer = await self.client.request(method, path, json=body)
                waited = time.monotonic() - began
                self.longest[method] = max(self.longest[method], waited)
                self.statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    assert answer.headers["retry-after"]
                    await asyncio.sleep(
                        0.2
                    )  # shorter than Retry-After, so that the load stays high

    async def go_through_silence(self, proxy: PostgresProxy) -> None:
        """Call before the silence, during it, and until calls succeed after it."""
        tasks = [asyncio.create_task(self.run(number)) for number in range(CALLERS)]
        await until(lambda: asyncio.sleep(0, self.statuses[200] > 200))
        proxy.silence()
        await last(SILENT_S)
        proxy.silence(silent=False)
        answered = self.statuses[200]
        await until(lambda: asyncio.sleep(0, self.statuses[200] > answered), RECOVERY_S)
        self.stopping = True
        await asyncio.gather(*tasks)
        await self.client.aclose()


async def test_each_call_is_answered_in_time(database: str, tmp_path: Path) -> None:
    """Reads and writes are answered in time, 503 with Retry-After; each logged error has a text."""
    key = create_key(database)
    connection = await asyncpg.connect(database)
    await seed(connection, DOCUMENTS, DOCUMENTS, "demo")
    async with PostgresProxy(database) as proxy, AsyncExitStack() as stack:
        running = service(proxy.dsn, tmp_path)
        program = await asyncio.to_thread(running.__enter__)  # the proxy is served meanwhile
        stack.push_async_callback(asyncio.to_thread, running.__exit__, None, None, None)
        callers = Callers(program.url, key)
        await callers.go_through_silence(proxy)
        lines = [json.loads(each) for each in program.log.read_text().splitlines()]
    figures = {"longest_s": callers.longest, "answers": callers.statuses, "log": len(lines)}
    sys.stdout.write(json.dumps(figures) + "\n")
    assert set(callers.statuses) <= {200, 201, 404, 503}
    assert callers.longest["GET"] < READ_S
    assert max(callers.longest.values()) < WRITE_S
    assert all(each.get("error", "-") for each in lines)
    events = Counter(each["event"] for each in lines)
    assert max(events.values()) <= CALLERS / 4, events  # a change of state, not each retry
    await check_outbox(connection)
    await connection.close()
