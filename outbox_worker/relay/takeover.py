"""Taking over: from the registration of the relay to a term that can publish.

The order of the steps is the protocol: the predecessor is fenced before its last progress record is
read, because from then on it cannot commit another one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from outbox_worker.kafka import administration, progress_topic
from outbox_worker.kafka.guard import TopicGuard
from outbox_worker.kafka.publisher import Destination, Publisher
from outbox_worker.logs import get_logger
from outbox_worker.postgres.checkpoints import Checkpoints, Session
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import (
    Registration,
    check_schema,
    check_session,
    read_cluster_identity,
    register,
    registered,
)
from outbox_worker.postgres.window import Window
from outbox_worker.relay import event_topic
from outbox_worker.relay.event_topic import EventTopic
from outbox_worker.relay.health import Health
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.on_change import OnChange
from outbox_worker.relay.pausing import Pausing
from outbox_worker.relay.start import Evidence, Start, decide_start
from outbox_worker.relay.term import Ledger, Sizes, Term
from outbox_worker.relay.wakeup import Wakeup
from outbox_worker.settings import Settings

log = get_logger(__name__)

STRAYS_SHOWN = 10


async def identify(session: Session, settings: Settings, on_change: OnChange) -> Registration:
    """Return the relay's registration; the first start makes the event topic and the registration.

    Raises:
        RefusedError: the schema's version is unknown, a transaction pooler is in the way, or the
            relay is registered for another database.
    """
    async with session() as connection:
        await check_session(connection, settings.session_database_url)
        await check_schema(connection)
        cluster = await read_cluster_identity(connection)
        undetected = cluster.undetected()
        if on_change.is_new("relay.place_unreadable", undetected or None):
            log.warning("relay.place_unreadable", undetected=undetected)
        registration = await registered(connection)
    if registration is None:
        topic = EventTopic(settings.kafka_client(), settings.topic, on_change)
        partitions = await topic.make(settings.partitions)
        async with session() as connection:
            registration = await register(connection, cluster, partitions)
    registration.check(cluster)
    return registration


@dataclass(kw_only=True)
class TakeOver:
    """One take-over, by the worker that holds the lock."""

    settings: Settings
    registration: Registration
    checkpoints: Checkpoints
    on_change: OnChange
    sizes: Sizes
    stop: asyncio.Event
    health: Health
    metrics: Metrics
    pausing: Pausing
    accept_topic: bool
    """Whether the operator accepts that the event topic was made again."""
    make_term: Callable[..., Term] = Term

    def __post_init__(self) -> None:
        self._client = self.settings.kafka_client()
        self._compression = self.settings.compression_of(self.registration)
        self._progress_topic = self.registration.progress_topic(self.settings.topic)
        self._destination = Destination(
            self.settings.topic,
            self._progress_topic,
            self.registration.partitions,
            f"outbox-{self.registration.name}",
        )
        self._event_topic = EventTopic(self._client, self.settings.topic, self.on_change)

    @asynccontextmanager
    async def term(self) -> AsyncIterator[Term]:
        """Fence the predecessor and yield a term that continues where it ended."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            max_batch_bytes = await self._prepare_topics()
            # Refuses another database's progress before its relay is fenced. A wait for an open
            # transaction would be useless, because the predecessor may begin the next one.
            await self._find_start(wait_s=0)
            publisher = Publisher(
                self._client,
                self._destination,
                transactional=settings.exactly_once,
                compression_type=self._compression.aiokafka_type,
                max_batch_size=min(max_batch_bytes, self.sizes.batch_bytes),
            )
            stack.push_async_callback(publisher.close)
            await publisher.start()
            start = await self._start_after_fencing()
            publisher.watch(TopicGuard(settings.topic, start.topic_id, start.offsets))
            ledger = Ledger(self.checkpoints, start)
            await ledger.write_checkpoint()
            # From here on, a progress topic without a record has lost it.
            await publisher.publish([], msgspec.json.encode(ledger.progress()))
            window = await Window.open(settings.session_database_url, self.sizes.page_events)
            stack.push_async_callback(window.close)
            wakeup = await Wakeup.open(settings.session_database_url)
            stack.push_async_callback(wakeup.close)
            self._announce(start)
            yield self.make_term(
                window=window,
                wakeup=wakeup,
                publisher=publisher,
                ledger=ledger,
                sizes=self.sizes,
                stop=self.stop,
                health=self.health,
                metrics=self.metrics,
                pausing=self.pausing,
            )

    async def _prepare_topics(self) -> int:
        """Make the progress topic unless it exists; return the size of the largest batch, in bytes."""
        async with administration.connect(self._client) as admin:
            await event_topic.make_topic(
                admin, self._progress_topic, 1, administration.PROGRESS_TOPIC
            )
            return await self._event_topic.max_batch_bytes(admin)

    async def _start_after_fencing(self) -> Start:
        """Return where to start from; the progress record cannot change any more."""
        start, found = await self._find_start(wait_s=progress_topic.OPEN_TRANSACTION_WAIT_S)
        if self.on_change.is_new("progress.stray_records", found.strays or None):
            log.warning(
                "progress.stray_records",
                topic=self._progress_topic,
                offsets=found.strays[:STRAYS_SHOWN],
                records=len(found.strays),
            )
        return await self._event_topic.check(
            start, self.registration.partitions, accept=self.accept_topic
        )

    async def _find_start(self, *, wait_s: float) -> tuple[Start, progress_topic.LastProgress]:
        """Read the progress and decide where to start from; RefusedError if it is another database's."""
        found = await progress_topic.last(self._client, self._progress_topic, wait_s=wait_s)
        start = decide_start(
            found.record,
            await self.checkpoints.newest(),
            self.checkpoints.cluster,
            evidence=await self._evidence(found.record),
            read_to_end=found.hidden_from is None,
        )
        return start, found

    async def _evidence(self, record: Progress | None) -> Evidence:
        if record is None:
            return Evidence(checkpoint=False, anchor=False)
        return Evidence(
            checkpoint=await self.checkpoints.exists(record.checkpoint),
            anchor=record.anchor is None or await self.checkpoints.has_row(record.anchor),
        )

    def _announce(self, start: Start) -> None:
        self.health.enter("leading")
        self.metrics.starts.labels(source=start.source).inc()
        if self.health.is_news(f"{start.source}: {start.reason}"):
            level = logging.WARNING if start.source == "checkpoint" else logging.INFO
            log.log(level, "relay.started", source=start.source, reason=start.reason,
                    s0=str(start.cursor.s0), compression=self._compression.codec)  # fmt: skip
