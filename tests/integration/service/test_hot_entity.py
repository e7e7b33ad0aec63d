"""The deletion of an entity while many sessions link to it without a pause."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.core.ids import IdSource
from service.core.values import DocumentKey, EntityKey, LinkKey
from service.core.writes import State
from service.store.writing.rows import lock_links
from tests.support.service.api import Api
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import until

LINKERS = 16
SHIP = "/v1/entities/shipment/ship_1"
WORKSPACE = "SELECT id::text FROM workspaces"
ACTIVE = "SELECT count(*) FROM document_links WHERE deleted_at IS NULL"


class Linkers:
    """Sessions of other processes that lock the entity in one transaction after the other."""

    def __init__(self, dsn: str, workspace: str) -> None:
        self._dsn = dsn
        self._workspace = workspace
        self.locked = 0
        self.refused = 0
        self.stopping = False

    async def run(self, number: int) -> None:
        """Lock the entity for the time of a slow COMMIT, again and again until the test ends."""
        connection = await asyncpg.connect(self._dsn)
        choice = random.Random(number)
        try:
            while not self.stopping:
                async with connection.transaction():
                    document = f"doc_{choice.randint(1, 20)}"
                    key = LinkKey(
                        DocumentKey(self._workspace, document),
                        EntityKey(self._workspace, "shipment", "ship_1"),
                    )
                    state = State(IdSource())
                    await lock_links(connection, state, [key], wait=False)
                    self.locked += key.entity in state.entities
                    self.refused += key.entity not in state.entities
                    await connection.execute("SELECT pg_sleep(0.02)")
        finally:
            await connection.close()


@pytest.fixture
async def linkers(
    api: Api, database: str, connection: asyncpg.Connection
) -> AsyncIterator[Linkers]:
    """Yield linkers at work: at each moment one of them holds its lock."""
    assert (await api.add("doc_1", "ship_1")).status_code == 201
    linkers = Linkers(database, await connection.fetchval(WORKSPACE))
    tasks = [asyncio.create_task(linkers.run(number)) for number in range(LINKERS)]

    async def locked() -> bool:
        return linkers.locked > 2 * LINKERS

    await until(locked)
    yield linkers
    linkers.stopping = True
    await asyncio.gather(*tasks)


async def test_the_first_deletion_succeeds(
    api: Api, linkers: Linkers, connection: asyncpg.Connection
) -> None:
    """The first deletion removes all earlier links; later links and a second deletion are 404."""
    answer = await api.client.delete(SHIP)
    assert answer.status_code == 200, answer.text
    assert await connection.fetchval(ACTIVE) == 0
    locked, refused = linkers.locked, linkers.refused

    async def tried() -> bool:
        return linkers.refused > refused + LINKERS

    await until(tried)
    assert linkers.locked <= locked + LINKERS  # those that were counted late
    assert (await api.add("doc_2", "ship_1")).status_code == 404
    assert (await api.client.delete(SHIP)).status_code == 404
    await check_outbox(connection)


async def test_the_deletion_is_replayed(api: Api, linkers: Linkers) -> None:
    """The deletion of an entity that is being linked stores its reply."""
    key = {"Idempotency-Key": "delete"}
    first = await api.client.delete(SHIP, headers=key)
    second = await api.client.delete(SHIP, headers=key)
    assert linkers.locked
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.headers["idempotent-replayed"] == "true"


async def test_the_entity_can_be_revived(api: Api, linkers: Linkers) -> None:
    """After a PUT the entity can be linked; its former links stay removed."""
    assert (await api.client.delete(SHIP)).status_code == 200
    refused = linkers.refused
    assert (await api.client.put(SHIP)).status_code == 201
    locked = linkers.locked

    async def linking() -> bool:
        return linkers.locked > locked

    await until(linking)
    assert refused <= linkers.refused
    assert await api.links("doc_1") == []
    assert (await api.add("doc_1", "ship_1")).status_code == 200
