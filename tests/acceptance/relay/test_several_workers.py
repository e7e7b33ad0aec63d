"""One worker leads, the others stand by: what happens when the leader dies, or hangs."""

import signal
import time

import asyncpg

from tests.support.relay import outbox, writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon, repeated
from tests.support.waiting import FAULT_S, last, until

MARGIN_S = 6
"""For this machine's other tests. Without the lock's end a takeover would wait for time-outs of 20 s."""


async def test_standby_takes_over_within_two_seconds_of_a_kill(
    database: str, kafka: str, topic: str
) -> None:
    """The second worker stands by, says so, and leads within 2 s of the first one's death."""
    with Worker(database, kafka, topic) as first:
        await first.leading()
        with Worker(database, kafka, topic) as second:
            await second.wait_event("worker.state", state="standby")
            ready = await second.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "standby")
            began = time.monotonic()
            first.end(signal.SIGKILL)
            await second.leading()
            assert time.monotonic() - began < 2 + MARGIN_S
            connection = await asyncpg.connect(database)
            await outbox.insert_events(connection, 10)
            await connection.close()
            assert len(await topics.wait_for_count(kafka, topic, 10)) == 10


async def test_hung_leader_is_replaced_within_ten_seconds_and_fenced(
    database: str, kafka: str, topic: str, delivery: str
) -> None:
    """A leader that hangs at work is replaced; when it wakes up, long after, it publishes nothing."""
    await writers.prepare(database)
    settings = {"OUTBOX_DELIVERY": delivery}
    with (
        Worker(database, kafka, topic, **settings) as first,
        Worker(database, kafka, topic, **settings) as second,
    ):
        leader, standby = await leader_first(first, second)
        async with writers.writing(lambda: database, 2):
            await leader.wait_published(100)
            began = time.monotonic()
            leader.pause()
            await standby.leading()
            assert time.monotonic() - began < 10 + MARGIN_S
            await standby.wait_working()
            taken_over = await topics.ends(kafka, topic)
            await last(FAULT_S / 2)
            leader.resume()
            await leader.wait_event("worker.state", state="standby")
            await standby.wait_working()
        await reckon(database, kafka, topic, delivery)
    late = [
        record
        for record in repeated(await topics.read_all(kafka, topic))
        if record.offset >= taken_over[record.partition]
    ]
    assert late == []


async def leader_first(first: Worker, second: Worker) -> tuple[Worker, Worker]:
    """Return the two workers, the leader first, once the other stands by."""

    async def one_leads() -> bool:
        return leads(first) or leads(second)

    await until(one_leads)
    leader, standby = (first, second) if leads(first) else (second, first)
    await standby.wait_event("worker.state", state="standby")
    return leader, standby


def leads(worker: Worker) -> bool:
    """Whether it has said that it leads."""
    said = (
        {"event": "worker.state", "state": "leading"}.items() <= line.items()
        for line in worker.log()
    )
    return any(said)
