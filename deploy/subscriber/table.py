"""The table of active links: each batch of records of a partition is applied in one transaction.

The transaction writes the rows and the position after the batch, so a kill at any moment leaves both or
neither. It locks the position first, and applies nothing if the position is not where this process left
it: after a rebalance another member may have read on.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg

SCHEMA: Final = Path(__file__).with_name("schema.sql").read_text()
EVENTS: Final = {
    f"document.{each}": f"urn:document-links:document.{each}:1"
    for each in ("linked", "unlinked", "restored", "link_updated")
}
"""The types of events that change a link, with the schema of each that this program reads."""

# Locks the row. The statements after it read what the lock's last holder has written.
PLACE: Final = """
INSERT INTO positions (partition, next_offset, after_snapshot) VALUES ($1, 0, false)
ON CONFLICT (partition) DO UPDATE SET partition = excluded.partition
RETURNING next_offset, snapshot, after_snapshot
"""
MOVE: Final = """
UPDATE positions SET next_offset = $2, snapshot = $3, after_snapshot = $4 WHERE partition = $1
"""
CONTINUE: Final = """
INSERT INTO positions (partition, next_offset, after_snapshot) VALUES ($1, $2, true)
ON CONFLICT (partition) DO UPDATE SET next_offset = excluded.next_offset
"""
VERSIONS: Final = "SELECT key, version FROM documents WHERE key = ANY($1)"
SET_VERSION: Final = """
INSERT INTO documents (key, version, partition) VALUES ($1, $2, $3)
ON CONFLICT (key) DO UPDATE SET version = excluded.version, partition = excluded.partition
"""
REMOVE: Final = "DELETE FROM links WHERE id = $1"
KEEP: Final = """
INSERT INTO links (id, key, workspace_id, document_id, entity_type, entity_id, role, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO UPDATE SET role = excluded.role
"""
FORGET: Final = "DELETE FROM documents WHERE partition = $1"
HOLD: Final = "INSERT INTO held (partition, in_snapshot, value) VALUES ($1, $2, $3)"
HELD: Final = "SELECT in_snapshot, value FROM held WHERE partition = $1 ORDER BY number"
DROP_HELD: Final = "DELETE FROM held WHERE partition = $1"

UNREADABLE: Final = (
    LookupError, TypeError, ValueError, AttributeError, RecursionError,
    asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError,
)  # fmt: skip
"""The errors of a record that is not what the JSON Schemas say."""


class HaltError(Exception):
    """The program cannot go on without an operator. Every record before the named one is applied."""


class GapError(ValueError):
    """Events of a document are missing."""


class Table:
    """The tables, over one connection. `topic` is the live topic, whose offsets the positions are."""

    def __init__(self, db: asyncpg.Connection, topic: str) -> None:
        self.db = db
        self.topic = topic
        self.snapshots: dict[int, str] = {}
        """The last snapshot that this process has applied, by partition."""
        self._left_at: dict[int, int] = {}

    async def position(self, partition: int) -> int:
        """Return the offset of the partition's next record."""
        offset: int = await self.db.fetchval(PLACE, partition)
        self._left_at[partition] = offset
        return offset

    def given(self) -> None:
        """Forget where this process left its partitions: after a rebalance it may read from elsewhere."""
        self._left_at.clear()

    async def apply(self, records: Sequence[Any]) -> bool:
        """Apply records of one partition; False: the position was moved, so read again from `position`.

        HaltError: a record cannot be applied, and all records before it are applied.
        """
        try:
            return await self._apply_together(records)
        except UNREADABLE as error:
            if len(records) == 1:
                raise HaltError(_described(records[0], error)) from error
        for record in records:  # one by one, up to the one that cannot be applied
            if not await self.apply([record]):
                return False
        return True

    async def _apply_together(self, records: Sequence[Any]) -> bool:
        partition = records[0].partition
        async with self.db.transaction(isolation="read_committed"):
            (place,) = await self.db.fetch(PLACE, partition)
            live = records[0].topic == self.topic
            if live and self._left_at.get(partition) != place["next_offset"]:
                return False
            batch = Batch(self.db, partition, place)
            await batch.read_versions([record.key.decode() for record in records])
            for record in records:
                if live:
                    batch.next_offset = record.offset + 1
                await batch.take(record, live=live)
            await batch.write()
        if batch.replaced_by:
            self.snapshots[partition] = batch.replaced_by
        if live:
            self._left_at[partition] = batch.next_offset
        return True


class Batch:
    """What the records of one transaction change in one partition."""

    def __init__(self, db: asyncpg.Connection, partition: int, place: asyncpg.Record) -> None:
        self.next_offset, self._snapshot, self._after_snapshot = place
        self.replaced_by: str | None = None
        """The snapshot that has replaced the partition's rows."""
        self._db = db
        self._partition = partition
        self._known: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._links: dict[UUID, tuple[Any, ...] | None] = {}
        self._held: list[tuple[int, bool, str]] = []

    async def read_versions(self, keys: Sequence[str]) -> None:
        """Read the versions of the documents that the records are about."""
        self._known = {row["key"]: row["version"] for row in await self._db.fetch(VERSIONS, keys)}

    async def take(self, record: Any, *, live: bool) -> None:  # noqa: ANN401 - aiokafka has no types
        """Apply a record, or hold it until the snapshot that has begun is complete."""
        headers, event = dict(record.headers), json.loads(record.value)
        snapshot = headers.get("snapshot-id", b"").decode()
        if _is_of_a_document(event) and event["partitionkey"].encode() != record.key:
            raise ValueError("the record's key is not the event's partitionkey")
        if event["type"] == "snapshot.began":
            self._snapshot, self._held = snapshot, []
            await self._db.execute(DROP_HELD, self._partition)
            if not live:
                offsets = event["data"]["continue_from"]
                if offsets and str(self._partition) not in offsets:
                    raise ValueError("the relay does not use this partition of the live topic")
                self.next_offset = offsets.get(str(self._partition), 0)
                await self._db.executemany(CONTINUE, [(int(n), at) for n, at in offsets.items()])
        elif snapshot and snapshot != self._snapshot:
            pass  # of a snapshot that another one has replaced
        elif event["type"] == "snapshot.ended":
            await self._replace(event["data"]["snapshot_id"], event["data"]["links"])
        elif self._snapshot and "replay" in headers:
            pass  # of an event from before the snapshot
        elif self._snapshot:
            _check(event)
            self._held.append((self._partition, bool(snapshot), record.value.decode()))
        else:
            self._change(event, replayed="replay" in headers, live=live)

    async def _replace(self, snapshot: str, count: int) -> None:
        """Replace the partition's rows by the snapshot's, then apply the other events that were held."""
        if snapshot != self._snapshot:
            raise ValueError(f"this is not the end of snapshot {self._snapshot}")
        await self._db.executemany(HOLD, self._held)
        await self._db.execute(FORGET, self._partition)
        self._known, self._versions, self._links, self._held = {}, {}, {}, []
        self.replaced_by, self._snapshot, self._after_snapshot = snapshot, None, True
        found, others = 0, []
        async for in_snapshot, value in self._db.cursor(HELD, self._partition):
            event = json.loads(value)
            if in_snapshot:
                found += 1
                self._set(event)
            else:
                others.append(event)
        if found != count:
            raise ValueError(f"the snapshot has {found} links here, and its end says {count}")
        for event in others:
            self._change(event, replayed=False, live=True)
        await self._db.execute(DROP_HELD, self._partition)

    def _change(self, event: dict[str, Any], *, replayed: bool, live: bool) -> None:
        """Apply an event if it is the next one of its document; GapError: events before it are missing."""
        _check(event)
        if not _is_of_a_document(event):
            return
        key, version = event["partitionkey"], event["data"]["document_version"]
        last = self._versions.get(key, self._known.get(key))
        if last is None and self._after_snapshot:
            # The snapshot does not tell the version of a document without links. The next live event does.
            last = version if replayed else version - 1
        if version > (last or 0) + 1 and live:
            raise GapError(f"version {version} of the document after version {last or 0}: {key}")
        if version == (last or 0) + 1:
            self._set(event)

    def _set(self, event: dict[str, Any]) -> None:
        """Note the link and the version of its document as they are after the event."""
        self._versions[event["partitionkey"]] = event["data"]["document_version"]
        if event["type"] in EVENTS:
            row = _row(event)
            self._links[row[0]] = None if event["type"] == "document.unlinked" else row

    async def write(self) -> None:
        """Write the rows and the position."""
        versions = [(*each, self._partition) for each in self._versions.items()]
        await self._db.executemany(SET_VERSION, versions)
        removed = [(link,) for link, row in self._links.items() if row is None]
        await self._db.executemany(REMOVE, removed)
        await self._db.executemany(KEEP, [row for row in self._links.values() if row])
        await self._db.executemany(HOLD, self._held)
        place = (self._partition, self.next_offset, self._snapshot, self._after_snapshot)
        await self._db.execute(MOVE, *place)


def _is_of_a_document(event: dict[str, Any]) -> bool:
    return event["type"] in EVENTS or "document_version" in (event.get("data") or {})


def _check(event: dict[str, Any]) -> None:
    """Raise an error of UNREADABLE if this program cannot apply the event. It ignores unknown types."""
    kind = event["type"]
    if _is_of_a_document(event):
        version = event["data"]["document_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"{version!r} is no version")
    if kind in EVENTS:
        if event["dataschema"] != EVENTS[kind]:
            raise ValueError(
                f"the schema {event['dataschema']} is not the one that this program reads"
            )
        _row(event)


def _row(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return the link of an event as a row of `links`."""
    data, link = event["data"], event["data"]["link"]
    return (
        UUID(link["id"]), event["partitionkey"], UUID(data["workspace_id"]), data["document_id"],
        link["resource"]["type"], link["resource"]["id"], link["role"],
        datetime.fromisoformat(link["created_at"]),
    )  # fmt: skip


def _described(record: Any, error: Exception) -> str:  # noqa: ANN401 - aiokafka has no types
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    place = f"{record.topic} partition {record.partition} offset {record.offset}"
    return f"{place}, key {record.key!r}, cannot be applied: {what}"
