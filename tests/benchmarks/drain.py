"""Events a second that the worker relays from a backlog; afterwards they are read back and counted."""

import asyncio
import time
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.process import LocalError, Process
from deploy.local.programs import worker_program
from tests.benchmarks.figures import Figures, cpu_s, peak_mib
from tests.benchmarks.stage import DOCUMENTS, Database, Stage, checkpoint

FILL = (Path(__file__).parent / "fill.sql").read_text()
PER_TRANSACTION = 100
PARTITIONS = 12
POLL_S = 0.02
QUIET_S = 1.5
PATIENCE_S = 120


class Sample(NamedTuple):
    """The topic at one moment."""

    at: float
    offsets: int
    cpu_s: float


class Identity(msgspec.Struct):
    """Of an event, only what tells it from others."""

    id: str


async def measure(stage: Stage, events: int, delivery: str) -> Figures:
    """Fill a new database's outbox, start a worker on it and time how the topic grows."""
    database = await stage.make_database("bench_drain")
    await _fill(database, events)
    topic = await _make_topic(stage.bootstrap)
    settings = {"OUTBOX_TOPIC": topic, "OUTBOX_DELIVERY": delivery}
    worker = worker_program(database.dsn, stage.bootstrap, stage.logs, **settings)
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=stage.bootstrap, isolation_level="read_committed",
        auto_offset_reset="earliest", max_partition_fetch_bytes=8 << 20,
    )  # fmt: skip
    await consumer.start()
    try:
        worker.start()
        first, last = await _watch(consumer, worker, events)
        peak = peak_mib(worker.pid)
        await _check(consumer, events)
    finally:
        worker.end()
        await consumer.stop()
    # What was there at the first look came before the clock started. Offsets also count
    # the ends of transactions, evenly.
    timed = events * (1 - first.offsets / last.offsets)
    return {
        f"drain.{delivery}.rate": timed / (last.at - first.at),
        f"drain.{delivery}.cpu_us": (last.cpu_s - first.cpu_s) / timed * 1e6,
        f"drain.{delivery}.peak_mib": peak,
    }


async def _fill(database: Database, events: int) -> None:
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(FILL)
        await connection.execute("SET synchronous_commit = off")  # only the filling is quicker
        call = "CALL fill_outbox($1, $2, $3, $4)"
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.fetch(call, database.workspace, DOCUMENTS, events, PER_TRANSACTION)
        await connection.execute("VACUUM ANALYZE outbox")
    finally:
        await connection.close()
    await checkpoint(database.dsn)


async def _make_topic(bootstrap: str) -> str:
    """Make it before the worker does, so that the clock can start with its first event."""
    topic = f"bench-{uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        forever = {"cleanup.policy": "delete", "retention.ms": "-1"}
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=forever)])
    finally:
        await admin.close()
    return topic


async def _watch(consumer: AIOKafkaConsumer, worker: Process, events: int) -> tuple[Sample, Sample]:
    """Return the topic when its first events were there, and when its last were."""
    samples: list[Sample] = []
    deadline = time.monotonic() + PATIENCE_S
    while True:
        ends = await consumer.end_offsets(consumer.assignment())
        sample = Sample(time.monotonic(), sum(ends.values()), cpu_s(worker.pid))
        if sample.offsets > (samples[-1].offsets if samples else 0):
            samples.append(sample)
        elif samples and sample.offsets >= events and sample.at > samples[-1].at + QUIET_S:
            return samples[0], samples[-1]
        if not worker.running or sample.at > deadline:
            raise LocalError(f"the backlog was not drained\n{worker.log_tail()}")
        await asyncio.sleep(POLL_S)


async def _check(consumer: AIOKafkaConsumer, events: int) -> None:
    """Read everything back: each event once."""
    decode = msgspec.json.Decoder(Identity).decode
    ids: list[str] = []
    while len(ids) < events:
        batches = await consumer.getmany(timeout_ms=5000)
        if not batches:
            break
        ids += [decode(message.value).id for batch in batches.values() for message in batch]
    if len(ids) != events or len(set(ids)) != events:
        message = f"{events} events were relayed as {len(ids)}, {len(set(ids))} of them distinct"
        raise LocalError(message)
