"""Several workers: one leads, and another one takes over when the leader is killed or hangs."""

import signal

import asyncpg

from tests.support.relay import outbox, writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon, repeated
from tests.support.waiting import BUSY_S, FAULT_S, last, until

# As the runbook states: 2 s after a kill, because the lock is freed with the leader's session; 10 s after
# the leader hangs, because its session is then ended.
KILLED_S = 2 + BUSY_S
HUNG_S = 10 + BUSY_S


async def test_standby_takes_over_when_the_leader_is_killed(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """A standby is ready, leads as soon as the leader is killed, and publishes."""
    with Worker(database, kafka, topic) as first:
        await first.leading()
        with Worker(database, kafka, topic) as second:
            await second.wait_event("worker.state", state="standby")
            ready = await second.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "standby")
            first.end(signal.SIGKILL)
            await second.leading(KILLED_S)
            await outbox.insert_events(connection, 10)
            assert len(await topics.wait_for_count(kafka, topic, 10)) == 10


async def test_hung_leader_is_replaced_and_fenced(
    database: str, kafka: str, topic: str, delivery: str
) -> None:
    """A leader that hangs is replaced; when it runs again after the takeover, it publishes nothing."""
    await writers.prepare(database)
    settings = {"OUTBOX_DELIVERY": delivery}
    with (
        Worker(database, kafka, topic, **settings) as first,
        Worker(database, kafka, topic, **settings) as second,
    ):
        leader, standby = await leader_first(first, second)
        async with writers.writing(database):
            await leader.wait_published(100)
            leader.pause()
            await standby.leading(HUNG_S)
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
    """Return both workers, the leader first, once one leads and the other stands by."""

    async def one_leads() -> bool:
        return leads(first) or leads(second)

    await until(one_leads)
    leader, standby = (first, second) if leads(first) else (second, first)
    await standby.wait_event("worker.state", state="standby")
    return leader, standby


def leads(worker: Worker) -> bool:
    """Whether the worker has logged that it leads."""
    return any(line.get("state") == "leading" for line in worker.log())
