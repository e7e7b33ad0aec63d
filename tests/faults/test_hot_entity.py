"""An entity is deleted while many service processes link to it without a pause."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import asyncpg
import pytest

from deploy.local.programs import create_key, service
from tests.faults.light import LightCaller
from tests.support.service.api import GENEROUS, seed
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import BUSY_S, until

PROCESSES = 16
CALLERS = 3 * PROCESSES
DOCUMENTS = 1000
ROUNDS = 3
SHIP = "/v1/entities/shipment/ship_1"
BODY = json.dumps({"resource_id": "ship_1"}).encode()
WRITE_S = 15.0 + BUSY_S
"""A write is answered within 15 s (OpenAPI document)."""
ACTIVE = "SELECT count(*) FROM document_links WHERE deleted_at IS NULL"


class Linkers:
    """Callers that link documents to the entity and unlink them."""

    def __init__(self) -> None:
        self.statuses = Counter[int]()
        self.stopping = False

    async def run(self, caller: LightCaller, number: int) -> None:
        """Call until `stopping` is set."""
        choice = random.Random(number)
        while not self.stopping:
            path = f"/v1/documents/doc_{choice.randint(1, DOCUMENTS)}/links"
            self.statuses[(await caller.call("POST", path, BODY)).status] += 1
            if choice.random() < 0.3:
                await caller.call("DELETE", f"{path}?resource_id=ship_1")

    async def busy(self) -> bool:
        """Whether the callers have made five links each on average since the last deletion."""
        return self.statuses[200] + self.statuses[201] > 5 * CALLERS


@pytest.fixture
async def callers(database: str, tmp_path: Path) -> AsyncIterator[list[LightCaller]]:
    """Yield the callers' connections, spread over the processes, and one for the deletion."""
    key = create_key(database)
    async with AsyncExitStack() as open_:
        running = open_.enter_context(ExitStack())
        urls = []
        for number in range(PROCESSES):
            logs = tmp_path / str(number)
            logs.mkdir()
            program = service(database, logs, LINKS_RATE_LIMIT=GENEROUS)
            urls.append(running.enter_context(program).url)
        yield [
            await open_.enter_async_context(LightCaller(urls[n % PROCESSES], key))
            for n in range(CALLERS + 1)
        ]


async def test_the_deletion_is_answered_in_time(callers: list[LightCaller], database: str) -> None:
    """A DELETE is 200 in the time of a write and leaves no active link; PUT revives the entity."""
    *linking, deleting = callers
    connection = await asyncpg.connect(database)
    await seed(connection, DOCUMENTS, 1, "demo")
    linkers = Linkers()
    tasks = [asyncio.create_task(linkers.run(each, n)) for n, each in enumerate(linking)]
    for _ in range(ROUNDS):
        await until(linkers.busy)
        began = time.monotonic()
        answer = await deleting.call("DELETE", SHIP)
        took = time.monotonic() - began
        left = await connection.fetchval(ACTIVE)
        sys.stdout.write(f"\nDELETE {answer.status} after {took:.2f} s\n")
        assert answer.status == 200, answer.body
        assert took < WRITE_S
        assert left == 0
        assert (await deleting.call("DELETE", SHIP)).status == 404
        assert (await deleting.call("PUT", SHIP)).status == 201
        assert linkers.statuses[404] > 0
        assert set(linkers.statuses) <= {200, 201, 404}
        linkers.statuses.clear()
    linkers.stopping = True
    await asyncio.gather(*tasks)
    await check_outbox(connection)
    await connection.close()
