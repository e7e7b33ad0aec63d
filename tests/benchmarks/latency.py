"""From the response to the event at a consumer, at a steady 1,000 links a second; then at rest."""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec
from aiokafka import AIOKafkaConsumer

from deploy.local import programs
from deploy.local.process import LocalError, Process
from tests.benchmarks import drain
from tests.benchmarks.figures import Figures, cpu_s, percentiles_ms
from tests.benchmarks.measurement import Round
from tests.benchmarks.relay import Relay
from tests.benchmarks.relays import relays, topic_with_consumer
from tests.benchmarks.stage import DOCUMENTS, ENTITIES, SERVICE, Database, Stage
from tests.benchmarks.steady import Orders

RATE = 1000
WARM_UP_S = 3
PATIENCE_S = 60
REST_S = 5
"""How long a relay with nothing to do is watched."""


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


@asynccontextmanager
async def measurement(stage: Stage) -> AsyncIterator[Round]:
    """Yield what measures each relay once."""
    everybody = await relays(stage)
    await drain.warm_up(stage, everybody)

    async def one_round() -> Figures:
        figures: Figures = {}
        for relay in everybody:
            figures |= await _measure(stage, relay)
        return figures

    yield one_round


async def _measure(stage: Stage, relay: Relay) -> Figures:
    """Run the service and a relay, link at a steady rate, and match answers with events."""
    async with (
        topic_with_consumer(stage.bootstrap) as (topic, consumer),
        relay.waiting(0) as waiting,
        waiting.relayed(topic) as process,
    ):
        database = waiting.database
        with programs.service(database.dsn, stage.logs, **SERVICE) as service:
            orders = _orders(database, service.url, (WARM_UP_S + stage.scale.seconds) * RATE)
            answered, arrived = await asyncio.gather(_answers(orders), _arrivals(consumer, orders))
        rest = await _cores_at_rest(process)
    late = [arrived[link] - moment for link, moment in zip(orders.links, answered, strict=True)]
    name = f"latency.{relay.name}"
    return {**percentiles_ms(name, late[WARM_UP_S * RATE :]), f"{name}.rest_cores": rest}


async def _cores_at_rest(process: Process) -> float:
    """Return the part of a core that it takes while nothing is written."""
    began, used = time.monotonic(), cpu_s(process.pid)
    await asyncio.sleep(REST_S)
    return (cpu_s(process.pid) - used) / (time.monotonic() - began)


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
        raise LocalError("the steady caller failed; see above")
    return msgspec.json.decode(output, type=list[int])


async def _arrivals(consumer: AIOKafkaConsumer, orders: Orders) -> dict[tuple[str, str], int]:
    """Return when the event of each link was in the consumer's hands; LocalError if one came twice."""
    decode = msgspec.json.Decoder(Event).decode
    arrived: dict[tuple[str, str], int] = {}
    count = 0
    deadline = time.monotonic() + len(orders.links) / orders.rate + PATIENCE_S
    gc.collect()
    gc.disable()  # a pause here would look like one of the relay
    try:
        while len(arrived) < len(orders.links):
            batches = await consumer.getmany(timeout_ms=200)
            now = time.monotonic_ns()
            for data in (decode(m.value).data for batch in batches.values() for m in batch):
                arrived[data.document_id, data.link.resource.id] = now
                count += 1
            if time.monotonic() > deadline:
                raise LocalError(f"{len(arrived)} of {len(orders.links)} events arrived")
    finally:
        gc.enable()
    if count != len(arrived):
        raise LocalError(f"{len(arrived)} events arrived as {count}")
    return arrived
