"""A subscriber that applies events in order and notes each one that does not follow the last."""

from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from tests.support.topic.events import event_of

ACTIVE = """
SELECT id::text, workspace_id::text, document_id, entity_type, entity_id, role
FROM document_links
WHERE deleted_at IS NULL
"""

ERASED = """
SELECT version
FROM erased_documents
WHERE workspace_id = $1::text::uuid AND id_hash = sha256(convert_to($2, 'UTF8'))
"""
EVENTS = "SELECT payload FROM outbox ORDER BY position"

VERSIONS = """
SELECT workspace_id::text || '/' || id, version
FROM documents
WHERE version > 0
"""


class ActiveLink(NamedTuple):
    """An active link, as the database and a subscriber both know it."""

    id: str
    workspace_id: str
    document_id: str
    entity_type: str
    entity_id: str
    role: str | None


class Subscriber:
    """A subscriber's state: links, versions, and the errors in the events so far."""

    def __init__(self) -> None:
        self.links: dict[str, ActiveLink] = {}
        self.versions: dict[str, int] = {}
        self.event_ids: set[str] = set()
        self.faults: list[str] = []

    @property
    def active(self) -> set[ActiveLink]:
        """The active links."""
        return set(self.links.values())

    def apply(self, value: bytes) -> None:
        """Apply one event, the value of a message."""
        event = event_of(value)
        data, kind = event["data"], event["type"]
        self._count(event["id"], event["partitionkey"], data["document_version"])
        link, resource = data["link"], data["link"]["resource"]
        known = self.links.pop(link["id"], None)
        if (known is None) != (kind in {"document.linked", "document.restored"}):
            self.faults.append(f"{kind} of a link that is {'not ' * (known is None)}active")
        if kind != "document.unlinked":
            self.links[link["id"]] = ActiveLink(
                link["id"], data["workspace_id"], data["document_id"],
                resource["type"], resource["id"], link["role"],
            )  # fmt: skip

    def _count(self, event_id: str, document: str, version: int) -> None:
        if event_id in self.event_ids:
            self.faults.append(f"event {event_id} came twice")
        self.event_ids.add(event_id)
        last = self.versions.get(document, 0)
        if version != last + 1:
            self.faults.append(f"{document}: version {version} after {last}")
        self.versions[document] = version


async def read_outbox(connection: asyncpg.Connection) -> list[bytes]:
    """Validate all events; return them by position: each document's in the order of their commits."""
    values = [row[0] for row in await connection.fetch(EVENTS)]
    for value in values:
        event_of(value)
    return values


async def check(connection: asyncpg.Connection, values: Iterable[bytes]) -> Subscriber:
    """Apply the events, and compare the resulting links and versions with the database."""
    subscriber = Subscriber()
    for value in values:
        subscriber.apply(value)
    assert subscriber.faults == []
    assert subscriber.active == {ActiveLink(*row) for row in await connection.fetch(ACTIVE)}
    rows = await connection.fetch(VERSIONS)
    versions = {row[0]: row[1] for row in rows}
    if gone := subscriber.versions.keys() - versions.keys():
        versions |= {key: await connection.fetchval(ERASED, *key.split("/")) for key in gone}
    assert subscriber.versions == versions
    return subscriber


async def check_outbox(connection: asyncpg.Connection) -> Subscriber:
    """Do the same with the events in the outbox."""
    return await check(connection, await read_outbox(connection))
