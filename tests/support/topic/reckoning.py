"""The topic held against the database after the writers have stopped: no loss, no duplicate, no gap."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from tests.support.relay import links
from tests.support.topic import topics
from tests.support.topic.events import event_of
from tests.support.topic.subscriber import check
from tests.support.topic.topics import Record
from tests.support.waiting import until

DELIVERIES: Final = ("exactly-once", "at-least-once")
LAST = "doc_1", "1"
"""The link that the last event is about."""


async def reckon(
    database: str,
    kafka: str,
    topic: str,
    delivery: str = "exactly-once",
    *,
    timeout_s: float = 60,
) -> None:
    """Apply the topic as a subscriber does, and hold the result against the database.

    A last event is written first and waited for, so that a repeated event that comes after
    the others is seen too. At least once, repeated events are skipped.
    """
    connection = await asyncpg.connect(database)
    try:
        last = await links.toggle(connection, *LAST)
        rows = await connection.fetchval("SELECT count(*) FROM outbox")
        records = await _read_up_to(kafka, topic, last, rows, timeout_s)
        if delivery == "at-least-once":
            again = {(each.partition, each.offset) for each in repeated(records)}
            records = [each for each in records if (each.partition, each.offset) not in again]
        await check(connection, [record.value for record in records])
        assert len(records) == rows
    finally:
        await connection.close()


async def _read_up_to(
    kafka: str, topic: str, last: str, rows: int, timeout_s: float
) -> list[Record]:
    """Return all records once the last event is there, and as many different ones as there are rows."""

    async def complete() -> list[Record]:
        records = await topics.read_all(kafka, topic)
        ids = {event_of(record.value)["id"] for record in records}
        return records if last in ids and len(ids) >= rows else []

    return await until(complete, timeout_s)


def repeated(records: Sequence[Record]) -> list[Record]:
    """Return the records whose version, or a later one of the same document, has come before."""
    versions: dict[str, int] = {}
    found = []
    for record in records:
        event = event_of(record.value)
        version, last = event["data"]["document_version"], versions.get(event["partitionkey"], 0)
        if version <= last:
            found.append(record)
        versions[event["partitionkey"]] = max(version, last)
    return found
