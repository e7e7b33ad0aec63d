"""`verify`: how far back it reads the topic, and its checks of events without rows."""

import json
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from outbox_worker.kafka.records import partition_of
from outbox_worker.operator import verify as verification
from outbox_worker.operator.comparison import Checker, OutboxEvent, Report, Share
from outbox_worker.settings import read
from tests.support.relay.worker import Worker
from tests.support.service.api import Api, Link, seed, serving
from tests.support.topic import topics

PARTITIONS = 12
DAY_MS = 86_400_000
KEY = b"key"


@pytest.fixture
async def api(database: str, connection: asyncpg.Connection) -> AsyncIterator[Api]:
    """Yield a client of a service with a document and deals."""
    async with serving(database) as api:
        await seed(connection, 1, 3)
        yield api


async def plant(kafka: str, topic: str, key: bytes, value: bytes, days_old: float = 0) -> None:
    """Send a record to the topic as another producer, with a time so many days ago."""
    moment = int(time.time() * 1000 - days_old * DAY_MS)
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        partition = partition_of(key, PARTITIONS)
        await producer.send_and_wait(topic, value, key, partition, timestamp_ms=moment)


def verify(worker: Worker, *options: str) -> tuple[int | None, dict[str, Any]]:
    """Run `verify`; return its exit code and its report."""
    code = worker.command("verify", "--json", *options)
    report: dict[str, Any] = json.loads(worker.output().splitlines()[-1])
    return code, report


async def test_verify_reads_from_a_day_before_the_oldest_row(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, api: Api
) -> None:
    """With a row of 2 days, records of 2½ and 0 days are read; a record of 4 days only with --all."""
    await topics.make(kafka, topic, PARTITIONS, {"retention.ms": "-1"})
    for days_old in (4, 2.5):
        await plant(kafka, topic, KEY, f'{{"id": "{uuid4()}"}}'.encode(), days_old)
    with Worker(database, kafka, topic) as worker:
        await api.link("doc_1", Link("deal", "deal_1"))
        await api.link("doc_1", Link("deal", "deal_2"))
        await topics.wait_for_count(kafka, topic, 4)
        await connection.execute(
            "UPDATE outbox SET created_at = now() - interval '2 days' WHERE position = 1"
        )
        oldest = await connection.fetchval("SELECT min(created_at) FROM outbox")
        code, report = verify(worker)
        assert datetime.fromisoformat(report["since"]) == oldest - timedelta(days=1)
        assert (code, report["topic_records"], report["not_compared"]) == (0, 3, 1)
        code, report = verify(worker, "--all")
        assert report["since"] is None
        assert (code, report["topic_records"], report["not_compared"]) == (0, 4, 2)


async def test_events_without_rows_are_checked_by_version(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, api: Api
) -> None:
    """A gap, a repeated and a late version of a document are found without its rows."""
    with Worker(database, kafka, topic) as worker:
        for entity in ("deal_1", "deal_2", "deal_3"):
            await api.link("doc_1", Link("deal", entity))
        (*_, last) = await topics.wait_for_count(kafka, topic, 3)
        await connection.execute("DELETE FROM outbox WHERE position < 3")
        assert verify(worker)[0] == 0
        ids = []
        for version in (5, 5, 4):
            event = json.loads(last.value) | {"id": str(uuid4()), "sequence": f"{version:020}"}
            ids.append(event["id"])
            await plant(kafka, topic, last.key, json.dumps(event).encode())
        code, report = verify(worker)
    assert (code, report["not_compared"]) == (1, 5)
    assert report["faults"] == {"out_of_sequence": 3}
    assert report["examples"] == {"out_of_sequence": ids}


async def test_a_large_outbox_is_verified_in_parts(
    database: str, kafka: str, topic: str, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for one event at a time the report is the same, and no more events are kept."""
    with Worker(database, kafka, topic) as worker:
        for number in range(1, 10):
            await api.client.put(f"/v1/documents/doc_{number}", json={})
            await api.link(f"doc_{number}", Link("deal", "deal_1"))
        records = await topics.wait_for_count(kafka, topic, 9)
        await plant(kafka, topic, records[0].key, records[0].value)
        settings = read(worker.env)
        at_once = await verification.verify(settings, whole=True)
        remembered: list[int] = []
        monkeypatch.setattr(verification, "Checker", noting(remembered))
        monkeypatch.setattr(verification, "MAX_EVENTS", 1)
        assert await verification.verify(settings, whole=True) == at_once
    assert at_once.faults == {"duplicated": 1}
    assert (at_once.outbox_events, at_once.topic_records) == (9, 10)
    assert (len(remembered), sum(remembered)) == (9, 9)
    assert max(remembered) < 9


def noting(remembered: list[int]) -> type[Checker]:
    """Return a Checker that notes the number of events it gets."""

    class Noting(Checker):
        def __init__(
            self, known: dict[str, OutboxEvent], partitions: int, report: Report, share: Share
        ) -> None:
            remembered.append(len(known))
            super().__init__(known, partitions, report, share)

    return Noting
