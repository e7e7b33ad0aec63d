"""From the response to the event at a consumer, at a steady 1,000 links a second."""

import asyncio
import gc
import sys
import time
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
from aiokafka import AIOKafkaConsumer

from deploy.local import programs
from deploy.local.process import LocalError
from tests.benchmarks.figures import Figures, percentiles_ms
from tests.benchmarks.stage import DOCUMENTS, ENTITIES, SERVICE, Database, Stage
from tests.benchmarks.steady import Orders

RATE = 1000
WARM_UP_S = 3
PATIENCE_S = 20


class Resource(msgspec.Struct):
    """The linked resource."""

    id: str


class Link(msgspec.Struct):
    """The link in an event."""

    resource: Resource


class Data(msgspec.Struct):
    """The data of an event, as far as it is needed here."""

    document_id: str
    link: Link


class Event(msgspec.Struct):
    """What tells which request an event belongs to."""

    data: Data


async def measure(stage: Stage, seconds: int, delivery: str) -> Figures:
    """Run both programs, link at a steady rate, and match answers with events."""
    database = await stage.make_database("bench_latency")
    topic = f"bench-{uuid4().hex}"
    settings = {"OUTBOX_TOPIC": topic, "OUTBOX_DELIVERY": delivery}
    with (
        programs.service(database.dsn, stage.logs, **SERVICE) as service,
        programs.worker(database.dsn, stage.bootstrap, stage.logs, **settings),
    ):
        orders = _orders(database, service.url, (WARM_UP_S + seconds) * RATE)
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=stage.bootstrap, isolation_level="read_committed",
            auto_offset_reset="earliest",
        )  # fmt: skip
        await consumer.start()
        try:
            answered, arrived = await asyncio.gather(_answers(orders), _arrivals(consumer, orders))
        finally:
            await consumer.stop()
    late = [arrived[link] - moment for link, moment in zip(orders.links, answered, strict=True)]
    return percentiles_ms(f"latency.{delivery}", late[WARM_UP_S * RATE :])


def _orders(database: Database, url: str, count: int) -> Orders:
    """Walk through the documents and the deals, so that no pair comes twice."""
    links = [
        (f"doc_{1 + n % DOCUMENTS}", f"deal_{1 + (n * 7 + n // DOCUMENTS) % ENTITIES}")
        for n in range(count)
    ]
    address = urlsplit(url)
    return Orders(address.hostname or "", address.port or 0, database.key, RATE, links)


async def _answers(orders: Orders) -> list[int]:
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.steady",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await caller.communicate(msgspec.json.encode(orders))
    if caller.returncode != 0:
        message = "the steady caller failed; see above"
        raise LocalError(message)
    return msgspec.json.decode(output, type=list[int])


async def _arrivals(consumer: AIOKafkaConsumer, orders: Orders) -> dict[tuple[str, str], int]:
    """Return when the event of each link was in the consumer's hands."""
    decode = msgspec.json.Decoder(Event).decode
    arrived: dict[tuple[str, str], int] = {}
    deadline = time.monotonic() + len(orders.links) / orders.rate + PATIENCE_S
    gc.collect()
    gc.disable()  # a pause here would look like one of the relay
    try:
        while len(arrived) < len(orders.links):
            batches = await consumer.getmany(timeout_ms=200)
            now = time.monotonic_ns()
            for data in (decode(m.value).data for batch in batches.values() for m in batch):
                arrived[data.document_id, data.link.resource.id] = now
            if time.monotonic() > deadline:
                message = f"{len(arrived)} of {len(orders.links)} events arrived"
                raise LocalError(message)
    finally:
        gc.enable()
    return arrived
