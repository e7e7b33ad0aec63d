"""The topic compared with the database after the writers have stopped: no loss, no duplicate, no gap."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from tests.support.relay import links
from tests.support.topic import topics
from tests.support.topic.events import event_of
from tests.support.topic.subscriber import check
from tests.support.topic.topics import Record

DELIVERIES: Final = ("exactly-once", "at-least-once")
LAST = "doc_1", "1"
"""The link that the last event is about."""


async def reckon(
    database: str,
    kafka: str,
    topic: str,
    delivery: str = "exactly-once",
) -> None:
    """Apply the topic as a subscriber does, and compare the result with the database.

    A last event is written first and waited for, so that a repeated event after all others is found
    too. With at-least-once delivery, repeated events are skipped.
    """
    connection = await asyncpg.connect(database)
    try:
        last = await links.toggle(connection, *LAST)
        rows = await connection.fetchval("SELECT count(*) FROM outbox")
        records = await _read_up_to(kafka, topic, last, rows)
        if delivery == "at-least-once":
            again = {(each.partition, each.offset) for each in repeated(records)}
            records = [each for each in records if (each.partition, each.offset) not in again]
        await check(connection, [record.value for record in records])
        assert len(records) == rows
    finally:
        await connection.close()


async def _read_up_to(kafka: str, topic: str, last: str, rows: int) -> list[Record]:
    """Return all records once the topic has the last event and as many different ones as rows."""
    ids: set[str] = set()

    def complete(records: Sequence[Record]) -> bool:
        ids.update(event_of(record.value)["id"] for record in records)
        return last in ids and len(ids) >= rows

    return await topics.read_until(kafka, topic, complete)


def repeated(records: Sequence[Record]) -> list[Record]:
    """Return the records that follow a record of the same document with this version or a later one."""
    versions: dict[str, int] = {}
    found = []
    for record in records:
        event = event_of(record.value)
        version, last = event["data"]["document_version"], versions.get(event["partitionkey"], 0)
        if version <= last:
            found.append(record)
        versions[event["partitionkey"]] = max(version, last)
    return found
