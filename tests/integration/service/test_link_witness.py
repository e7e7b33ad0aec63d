"""The witness of a lone link: when a link that is not there proves that it was not written."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import asyncpg
import pytest

from service.core.values import DocumentKey, EntityKey, LinkKey
from service.store.database import Database
from service.store.erasing.erase import Eraser, erasing
from service.store.writing.witness import Found, LinkWitness
from tests.support.service.api import Api

DOCUMENT = "/v1/documents/doc_1"
SHIP = "/v1/entities/shipment/ship_1"
NOT_WRITTEN = "8000-000000000001"
REGISTERED_LONG_AGO = "UPDATE entities SET created_at = created_at - interval '1 hour'"
MADE_LONG_AGO = (
    "UPDATE documents SET created_at = created_at - interval '1 hour' WHERE id = 'doc_1'"
)


class Looked(NamedTuple):
    """A workspace with doc_1 and ship_1, and what changes and looks them up."""

    api: Api
    connection: asyncpg.Connection
    eraser: Eraser
    workspace: str

    async def link(self) -> tuple[str, datetime]:
        """Link them; return the link's id and time."""
        assert (await self.api.add("doc_1", "ship_1")).status_code == 201
        row = await self.connection.fetchrow("SELECT id::text, created_at FROM document_links")
        assert row is not None
        return row["id"], row["created_at"]

    async def witness(
        self, id_end: str, latest: datetime, entity: str = "ship_1"
    ) -> Found | Literal[False] | None:
        """Look up a link to doc_1 whose statement had until `latest`."""
        ends = DocumentKey(self.workspace, "doc_1"), EntityKey(self.workspace, "shipment", entity)
        witness = LinkWitness(LinkKey(*ends), id_end, latest)
        return await witness.look_up(self.connection, same_server=True)


@pytest.fixture
async def looked(api: Api, database: str, connection: asyncpg.Connection) -> AsyncIterator[Looked]:
    """Yield a workspace of a service, with an eraser of its rows."""
    await connection.execute(REGISTERED_LONG_AGO)
    workspace = str(await connection.fetchval("SELECT id FROM workspaces"))
    async with Database(database, pool_size=2) as pool, erasing(pool, workspace) as eraser:
        yield Looked(api, connection, eraser, workspace)


async def erase_document(looked: Looked) -> None:
    """Erase the document."""
    await looked.eraser.document("doc_1")


async def make_document_again(looked: Looked) -> None:
    """Erase the document and make it again."""
    await erase_document(looked)
    assert (await looked.api.client.put(DOCUMENT, json={})).status_code == 201


async def erase_links(looked: Looked) -> None:
    """Do what the first of several transactions does that erase a document with many links."""
    assert (await looked.api.client.delete(DOCUMENT)).status_code == 200
    await looked.connection.execute("DELETE FROM document_links")


async def erase_entity(looked: Looked) -> None:
    """Erase the entity."""
    await looked.eraser.entity(EntityKey(looked.workspace, "shipment", "ship_1"))


async def register_entity_again(looked: Looked) -> None:
    """Erase the entity and register it again."""
    await erase_entity(looked)
    assert (await looked.api.client.put(SHIP)).status_code == 201


Change = Callable[[Looked], Awaitable[None]]
ERASURES: list[Change] = [
    erase_document,
    make_document_again,
    erase_links,
    erase_entity,
    register_entity_again,
]


@pytest.mark.parametrize("erase", ERASURES)
async def test_an_erased_link_proves_nothing(looked: Looked, erase: Change) -> None:
    """After an erasure nobody knows whether the link was written, and the call is not tried again."""
    link_id, written_at = await looked.link()
    await erase(looked)
    assert await looked.witness(link_id[19:], written_at) is None


async def test_a_removed_link_is_found(looked: Looked) -> None:
    """A link that is not active any more was written."""
    link_id, written_at = await looked.link()
    assert (await looked.api.client.delete(DOCUMENT)).status_code == 200
    assert await looked.witness(link_id[19:], written_at) == Found(written_at, None)


async def nothing(_: Looked) -> None:
    """Change nothing."""


async def change_document(looked: Looked) -> None:
    """Change the document, and link it to others."""
    for resource in ("ship_2", "ship_3"):
        assert (await looked.api.add("doc_1", resource)).status_code == 201
    assert (await looked.api.client.post(DOCUMENT, json={"display_name": "A"})).status_code == 200


async def link_elsewhere(looked: Looked) -> None:
    """Write the same link by another call."""
    await looked.link()


async def erase_long_ago(looked: Looked) -> None:
    """Erase the document and make it again, all before the statement was sent."""
    await make_document_again(looked)
    await looked.connection.execute(MADE_LONG_AGO)


async def no_document(looked: Looked) -> None:
    """Remove a document that was never linked, so that there is no tombstone."""
    await looked.connection.execute("DELETE FROM documents WHERE id = 'doc_1'")


@pytest.mark.parametrize(
    "change", [nothing, change_document, link_elsewhere, erase_long_ago, no_document]
)
async def test_a_link_that_was_never_there_was_not_written(looked: Looked, change: Change) -> None:
    """What else has happened to document and entity leaves no doubt, so the call is tried again."""
    await change(looked)
    latest = await looked.connection.fetchval("SELECT clock_timestamp()")
    assert await looked.witness(NOT_WRITTEN, latest) is False


async def test_a_link_to_an_unknown_entity_was_not_written(looked: Looked) -> None:
    """The call is tried again, and refused."""
    latest = await looked.connection.fetchval("SELECT clock_timestamp()")
    assert await looked.witness(NOT_WRITTEN, latest, "ship_none") is False


async def test_a_statement_that_may_still_come_is_waited_for(looked: Looked) -> None:
    """Before `latest` nothing is proved."""
    latest = await looked.connection.fetchval("SELECT clock_timestamp()")
    assert await looked.witness(NOT_WRITTEN, latest + timedelta(minutes=1)) is None
