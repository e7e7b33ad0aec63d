"""`pause` and `resume`: nothing is published meanwhile, by any leader, and afterwards each event once."""

import json
import signal
from collections.abc import Sequence
from typing import Any

import asyncpg

from tests.acceptance.relay.test_several_workers import leader_first
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics

EVENTS = 200


def printed(worker: Worker, *command: str) -> Any:  # noqa: ANN401 - JSON
    """Return what a command prints with --json."""
    assert worker.command(*command, "--json") == 0, worker.output()
    return json.loads(worker.output().splitlines()[-1])


async def test_a_paused_relay_publishes_nothing_until_it_is_resumed(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, delivery: str
) -> None:
    """Neither the leader nor the standby that takes over publishes; then each event comes once, in order."""
    settings = {"OUTBOX_DELIVERY": delivery, "OUTBOX_BATCH_SIZE": "50"}
    with (
        Worker(database, kafka, topic, **settings) as first,
        Worker(database, kafka, topic, **settings) as second,
    ):
        leader, standby = await leader_first(first, second)
        await outbox.insert_events(connection, EVENTS, keys=7)
        await topics.wait_for_count(kafka, topic, EVENTS)
        assert printed(leader, "resume") == {"paused_s": None}
        paused = printed(leader, "pause")
        assert paused["confirmed"] is True
        await outbox.insert_events(connection, EVENTS, keys=7)
        logged = await leader.wait_event("relay.paused", by=paused["by"])
        assert logged["since"] == paused["since"]
        leader.end(signal.SIGKILL)
        await standby.wait_event("relay.paused", by=paused["by"])
        await standby.leading()
        # Only a leader whose term has begun confirms the pause, so it had the chance to publish.
        assert printed(standby, "pause") == paused
        assert len(await topics.read_all(kafka, topic)) == EVENTS
        await is_shown(standby, since=paused["since"], by=paused["by"])
        assert printed(standby, "resume")["paused_s"] > 0
        records = await topics.wait_for_count(kafka, topic, 2 * EVENTS)
        await standby.wait_event("relay.resumed")
    check_order(records, 2 * EVENTS)


async def test_a_pause_amid_a_backlog_loses_nothing(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, delivery: str
) -> None:
    """What was read ahead when the relay paused comes after the pause, once and in order."""
    backlog = 20_000
    await outbox.insert_events(connection, backlog // 2, keys=7)
    await outbox.insert_events(connection, backlog // 2, keys=7)
    # A page of any size takes longer exactly once. The backlog has to last until the pause.
    page = {"exactly-once": "20", "at-least-once": "5"}[delivery]
    settings = {"OUTBOX_DELIVERY": delivery, "OUTBOX_BATCH_SIZE": page}
    with Worker(database, kafka, topic, **settings) as worker:
        await worker.leading()
        await topics.wait_for_count(kafka, topic, 20)
        assert printed(worker, "pause")["confirmed"] is True
        published = len(await topics.read_all(kafka, topic))
        assert 20 <= published < backlog
        assert printed(worker, "resume")["paused_s"] > 0
        records = await topics.wait_for_count(kafka, topic, backlog)
    check_order(records, backlog)


async def is_shown(worker: Worker, **paused: object) -> None:
    """See that the pages, the gauge and `status` of a leader show the pause; it is healthy and ready."""
    for page in ("/healthz", "/readyz"):
        answer = await worker.get(page)
        assert (answer.status_code, answer.json()["paused"]) == (200, paused)
    assert await worker.metric("outbox_paused_timestamp_seconds") == paused["since"]
    assert printed(worker, "status")["paused"] == paused


def check_order(records: Sequence[Any], count: int) -> None:
    """See that the events of two equal inserts are there once, in order for each key."""
    by_key: dict[bytes, list[int]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(int(record.value))
    assert sum(map(len, by_key.values())) == count
    for numbers in by_key.values():
        half = len(numbers) // 2
        assert numbers[:half] == numbers[half:] == sorted(numbers[:half])
