"""The measured operations: calls of the service, and the relaying of an event."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NamedTuple
from uuid import uuid4

import asyncpg
import httpx

from service.store.writing.cascade import CASCADE_CHUNK
from tests.counts.sessions import CountingProxy, Trip
from tests.support.relay import links
from tests.support.relay.worker import Worker
from tests.support.service.api import Api, serving
from tests.support.waiting import until

GROUP: Final = 16
BATCH: Final = 500
NUMBERS: Final = range(10_000, 14_000)
"""Numbers of documents, all of the same length, so that each run writes the same number of bytes."""

SEED: Final = """
WITH w AS (SELECT id FROM workspaces WHERE name = 'test'),
e AS (INSERT INTO entities (workspace_id, type, id) SELECT w.id, 'item', 'item_1' FROM w)
INSERT INTO documents (workspace_id, id)
SELECT w.id, 'doc_' || n FROM w, generate_series($1::int, $2::int) AS n
"""

LINKED: Final = 2 * CASCADE_CHUNK + 1
"""Links of an entity that is deleted: two chunks, and a last link."""
DELETED: Final = range(10, 20)
"""Numbers of the entities that are deleted, one in each run."""

SEED_LINKS: Final = """
WITH w AS (SELECT id FROM workspaces WHERE name = 'test'),
e AS (
    INSERT INTO entities (workspace_id, type, id)
    SELECT w.id, 'item', 'item_' || n FROM w, generate_series($1::int, $2::int) AS n
)
INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT w.id, 'doc_' || d, ('0193e6c4-0000-7000-8000-0000' || n || '0' || d)::uuid, 'item', 'item_' || n, now()
FROM w, generate_series($1::int, $2::int) AS n, generate_series($3::int, $4::int) AS d
"""


class Done(NamedTuple):
    """The round trips of a run that count, and the xids of transactions that do not count."""

    trips: list[Trip]
    others: list[str]


Run = Callable[[], Awaitable[Done]]
"""Runs an operation once, on documents that no other run has used."""


@asynccontextmanager
async def of_the_service(
    proxy: CountingProxy, database: str, connection: asyncpg.Connection
) -> AsyncIterator[dict[str, Run]]:
    """Yield calls of a service whose database is behind the proxy, by their names in counts.json."""
    async with serving(database) as api:
        await connection.execute(SEED, NUMBERS.start, NUMBERS.stop - 1)
        documents = (f"doc_{number}" for number in NUMBERS)
        first = NUMBERS.start
        await connection.execute(
            SEED_LINKS, DELETED.start, DELETED.stop - 1, first, first + LINKED - 1
        )
        entities = (f"item_{number}" for number in DELETED)
        calls = {
            "link alone": partial(_link, api, documents),
            f"group of {GROUP} links": partial(_group, api, documents),
            f"batch of {BATCH} links": partial(_batch, api, documents),
            "document update with one link": partial(_update, api, documents),
            f"deletion of an entity with {LINKED} links": partial(_delete, api, entities),
        }
        yield {name: partial(_until_replied, proxy, call) for name, call in calls.items()}


async def _until_replied(proxy: CountingProxy, call: Callable[[], Awaitable[None]]) -> Done:
    """Count the round trips of transactions, and the statement of a lone link, which is its own transaction.

    Other statements are of the background, such as those that check keys and idle sessions.
    """
    begun = len(proxy.trips)
    await call()
    made = proxy.trips[begun:]
    return Done(
        [each for each in made if each.in_transaction or "add_link(" in each.sql], others=[]
    )


async def _link(api: Api, documents: Iterator[str]) -> None:
    _hold(await api.add(next(documents), "item_1"), 201)


async def _group(api: Api, documents: Iterator[str]) -> None:
    """Make concurrent calls, all of which are in the writer's queue before it takes the first."""
    calls = [api.add(next(documents), "item_1") for _ in range(GROUP)]
    for answer in await asyncio.gather(*calls):
        _hold(answer, 201)


async def _batch(api: Api, documents: Iterator[str]) -> None:
    operations = [
        {"op": "link", "document_id": next(documents), "resource_id": "item_1"}
        for _ in range(BATCH)
    ]
    body = {"operations": operations, "atomic": True}
    _hold(await api.client.post("/v1/links/batch", json=body), 200)


async def _update(api: Api, documents: Iterator[str]) -> None:
    body = {"display_name": "Contract", "resources": {"add": ["item_1"]}}
    _hold(await api.client.post(f"/v1/documents/{next(documents)}", json=body), 200)


async def _delete(api: Api, entities: Iterator[str]) -> None:
    _hold(await api.client.delete(f"/v1/entities/item/{next(entities)}"), 200)


def _hold(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text


@asynccontextmanager
async def of_the_relay(
    proxy: CountingProxy, database: str, connection: asyncpg.Connection, kafka: str
) -> AsyncIterator[dict[str, Run]]:
    """Yield the relaying of one event by a worker whose database is behind the proxy."""
    await connection.execute("TRUNCATE workspaces, outbox CASCADE")
    await links.seed(connection, len(NUMBERS), 1)
    numbers = iter(range(1, len(NUMBERS)))
    with Worker(database, kafka, f"test-{uuid4().hex}") as worker:
        await worker.leading()
        yield {"relayed event": partial(_relay, proxy, connection, numbers)}


async def _relay(
    proxy: CountingProxy, connection: asyncpg.Connection, numbers: Iterator[int]
) -> Done:
    """Count the round trips from the read of the event to the next read, which finds nothing.

    The read of the event may be on its way before the event is written: a poll waits for no notification.
    """

    def reads() -> list[Trip]:
        return [trip for trip in proxy.trips if trip.statements and "payload" in trip.sql]

    def found() -> list[int]:
        return [
            place for place, trip in enumerate(reads()) if trip.rows > 1
        ]  # one is the snapshot's

    earlier = len(found())
    event_id = await links.toggle(connection, f"doc_{next(numbers)}", "1")
    await connection.execute("NOTIFY outbox")

    async def read() -> list[Trip]:
        ended, places = reads(), found()[earlier:]
        after = ended[places[0] :] if places else []
        empty = next((place for place, trip in enumerate(after) if trip.rows <= 1), None)
        return [] if empty is None else after[: empty + 1]

    writer = await connection.fetchval("SELECT xid::text FROM outbox WHERE event_id = $1", event_id)
    return Done(await until(read), [writer])
