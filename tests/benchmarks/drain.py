"""Events a second that a relay takes from a backlog; afterwards they are read back and counted."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer

from deploy.local.process import LocalError, Process, say
from tests.benchmarks.figures import Figures, cpu_s, forget_peak, peak_mib
from tests.benchmarks.measurement import Round
from tests.benchmarks.relay import Relay
from tests.benchmarks.relays import relays, topic_with_consumer
from tests.benchmarks.stage import Stage

POLL_S = 0.02
QUIET_S = 1.5
PATIENCE_S = 180
WARM_UPS = 2


class Sample(NamedTuple):
    """The topic at one moment."""

    at: float
    offsets: int
    cpu_s: float


class Identity(msgspec.Struct):
    """Of an event, only what tells it from others, and its place among those of its document."""

    id: str
    partitionkey: str
    sequence: str


@asynccontextmanager
async def measurement(stage: Stage) -> AsyncIterator[Round]:
    """Yield what drains once with each relay."""
    everybody = await relays(stage)
    await warm_up(stage, everybody)

    async def one_round() -> Figures:
        figures: Figures = {}
        for relay in everybody:
            figures |= await measure(stage, relay, stage.scale.events)
        return figures

    yield one_round


async def warm_up(stage: Stage, everybody: list[Relay]) -> None:
    """Let a JVM compile what it will run."""
    for relay in everybody:
        if not relay.warm:
            say(f"warming up {relay.name} …")
            for _ in range(WARM_UPS):
                await measure(stage, relay, stage.scale.events)
            relay.warm = True


async def measure(stage: Stage, relay: Relay, events: int) -> Figures:
    """Let a relay loose on a backlog and time how the topic grows, from its first events on."""
    async with (
        topic_with_consumer(stage.bootstrap) as (topic, consumer),
        relay.waiting(events) as waiting,
        waiting.relayed(topic) as process,
    ):
        forget_peak(process.pid)
        first, last = await watch(consumer, process, events)
        peak = peak_mib(process.pid)
        await check(consumer, events)
    # What was there at the first look came before the clock started. Offsets also count
    # the ends of transactions, evenly.
    timed = events * (1 - first.offsets / last.offsets)
    return {
        f"drain.{relay.name}.rate": timed / (last.at - first.at),
        f"drain.{relay.name}.cpu_us": (last.cpu_s - first.cpu_s) / timed * 1e6,
        f"drain.{relay.name}.peak_mib": peak,
    }


async def watch(consumer: AIOKafkaConsumer, process: Process, events: int) -> tuple[Sample, Sample]:
    """Return the topic when its first events were there, and when its last were."""
    samples: list[Sample] = []
    deadline = time.monotonic() + PATIENCE_S
    while True:
        ends = await consumer.end_offsets(consumer.assignment())
        sample = Sample(time.monotonic(), sum(ends.values()), cpu_s(process.pid))
        if sample.offsets > (samples[-1].offsets if samples else 0):
            samples.append(sample)
        elif samples and sample.offsets >= events and sample.at > samples[-1].at + QUIET_S:
            if len(samples) == 1:
                raise LocalError(f"{events} events are too few to be timed")
            return samples[0], samples[-1]
        if not process.running or sample.at > deadline:
            raise LocalError(f"the backlog was not drained\n{process.log_tail()}")
        await asyncio.sleep(POLL_S)


async def check(consumer: AIOKafkaConsumer, events: int) -> None:
    """Read everything back: each event once, and those of a document in the order of its changes."""
    decode = msgspec.json.Decoder(Identity).decode
    read: list[Identity] = []
    while len(read) < events:
        batches = await consumer.getmany(timeout_ms=5000)
        if not batches:
            break
        read += [decode(message.value) for batch in batches.values() for message in batch]
    distinct = len({event.id for event in read})
    if len(read) != events or distinct != events:
        raise LocalError(
            f"{events} events were relayed as {len(read)}, {distinct} of them distinct"
        )
    if late := out_of_order(read):
        raise LocalError(f"{late} of {events} events came after a later one of their document")


def out_of_order(events: Iterable[Identity]) -> int:
    """Return the number of events that come after a later one of the same document."""
    last: dict[str, str] = {}
    late = 0
    for event in events:
        late += event.sequence <= last.get(event.partitionkey, "")
        last[event.partitionkey] = event.sequence
    return late
