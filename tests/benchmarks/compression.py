"""Draining with the codecs of OUTBOX_COMPRESSION: events a second, CPU, and bytes on the topic."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from outbox_worker.kafka.records import CONTENT_TYPE, partition_of
from service.core.events import OutboxRow
from service.core.ids import IdSource
from service.core.links import Draft, decide
from service.core.values import AddLink, Caller, DocumentKey, DocumentState, EntityKey, LinkKey
from service.core.writes import State
from tests.benchmarks import drain
from tests.benchmarks.figures import Figures
from tests.benchmarks.measurement import Round
from tests.benchmarks.relay import EXACTLY_ONCE, Variant
from tests.benchmarks.relays import PARTITIONS, Worker
from tests.benchmarks.stage import DOCUMENTS, ENTITIES, Stage

CODECS: Final = {
    "none": 0,
    "lz4": DefaultRecordBatch.CODEC_LZ4,
    "zstd": DefaultRecordBatch.CODEC_ZSTD,
}
BATCH: Final = 5000


@asynccontextmanager
async def measurement(stage: Stage) -> AsyncIterator[Round]:
    """Yield what drains once with each codec."""

    async def one_round() -> Figures:
        figures: Figures = {}
        for codec in CODECS:
            relay = Worker(stage, Variant(EXACTLY_ONCE, codec))
            done = await drain.measure(stage, relay, stage.scale.events)
            figures[f"compression.{codec}.rate"] = done[f"drain.{relay.name}.rate"]
            figures[f"compression.{codec}.cpu_us"] = done[f"drain.{relay.name}.cpu_us"]
            figures[f"compression.{codec}.bytes"] = _bytes_an_event(codec)
        return figures

    yield one_round


def _bytes_an_event(codec: str) -> float:
    """Return what an event takes in a topic's log, of a full batch of the worker's."""
    batches = [_new_batch(CODECS[codec]) for _ in range(PARTITIONS)]
    counts = [0] * PARTITIONS
    for row in _events():
        key = row.key.encode()
        place = partition_of(key, PARTITIONS)
        batches[place].append(counts[place], 0, key, row.payload, [CONTENT_TYPE])
        counts[place] += 1
    return sum(len(batch.build()) for batch in batches) / BATCH


def _new_batch(codec: int) -> DefaultRecordBatchBuilder:
    return DefaultRecordBatchBuilder(2, codec, 1, 0, 0, 0, 16 << 20)


def _events() -> list[OutboxRow]:
    """Return events as the service makes them, each of a request of its own."""
    workspace, choice = str(uuid4()), random.Random(1)
    state = State(IdSource())
    state.now = datetime.now(UTC)
    for _ in range(BATCH):
        document, entity = choice.randint(1, DOCUMENTS), choice.randint(1, ENTITIES)
        key = LinkKey(
            DocumentKey(workspace, f"doc_{document}"),
            EntityKey(workspace, "deal", f"deal_{entity}"),
        )
        state.documents.setdefault(key.document, DocumentState(1, 1))
        state.entities.add(key.entity)
        draft = Draft(state, Caller(workspace, "key_0123456789", state.ids.request_id()), "link")
        decide(draft, [AddLink(key, "signed")])
    return state.unsaved.outbox
