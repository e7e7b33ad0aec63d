"""Publishes a page and the cursor after it in one Kafka transaction.

aiokafka (0.14) has three properties that the publisher has to work around:
  * A batch that cannot be delivered fails only its own future, and a commit then succeeds without the
    batch. So every future is checked before the commit.
  * With idempotence a send never expires, and stop() may hang. So every await has a time limit, and a
    producer that has failed is abandoned.
  * The sequence number of a partition wraps wrongly after 2**31 records. So a producer is replaced long
    before that.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from aiokafka.errors import KafkaError, LeaderNotAvailableError, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder

from outbox_worker.kafka import metadata, producers
from outbox_worker.kafka.guard import TopicGuard
from outbox_worker.kafka.records import PROGRESS_KEY, Packer, RecordBatch
from outbox_worker.tasks import retrieve_error

PUBLISH_TIMEOUT_S = 9
"""The limit for a page. It is less than the transaction's time-out, so that the relay ends a slow
transaction before the broker does. The broker would raise the epoch, and the producer would get the same
error as one that another worker has fenced."""
CHECK_TIMEOUT_S = 3
"""The limit for a check of the topics after a page that took too long."""
BATCH_BYTES = 1_000_000
"""The largest size of a batch, before compression."""
UNCOMPRESSED = 0
"""The number of the codec `none` in a record batch."""
LEAST_BATCH_BYTES = 20_000
"""A smaller batch might not hold one event of the largest size that the outbox accepts."""
RECORDS_A_PRODUCER = 2**30
"""The largest number of records that a producer sends to one partition: half of aiokafka's limit."""
PRODUCER_AGE_S = 24 * 3600
"""The longest life of a producer. The coordinator forgets a transactional id that has begun no
transaction for 7 days (transactional.id.expiration.ms). A later producer would not fence this one."""


Round = dict[int, RecordBatch]


class Sent(NamedTuple):
    """A record batch in flight."""

    partition: int
    records: int
    acknowledgement: asyncio.Future[Any]


class FencedError(Exception):
    """Another worker has taken over, so this one must stop leading, even if it has the lock."""


class TooSlowError(KafkaError):  # type: ignore[misc] # aiokafka has no types
    """A page was not published within PUBLISH_TIMEOUT_S.

    `acknowledged` is the number of its events that brokers have acknowledged.
    """

    def __init__(self, acknowledged: int) -> None:
        super().__init__(
            f"a page was not published within {PUBLISH_TIMEOUT_S} s, in which brokers acknowledged "
            f"{acknowledged} events; the next attempt has fewer events"
        )
        self.acknowledged = acknowledged


class Destination(NamedTuple):
    """A relay's topics and transactional id; `partitions` is the number over which it hashes keys."""

    topic: str
    progress_topic: str
    partitions: int
    transactional_id: str

    @property
    def all_partitions(self) -> dict[str, int]:
        """The number of partitions that the relay writes to in each topic."""
        return {self.topic: self.partitions, self.progress_topic: 1}


class Publisher:
    """Publishes with one producer. After an error, close the publisher and start another one."""

    def __init__(
        self,
        client: dict[str, Any],
        destination: Destination,
        *,
        transactional: bool,
        **options: Any,  # noqa: ANN401 - aiokafka's own
    ) -> None:
        self._client = client
        self._destination = destination
        self._transactional = transactional
        self._packer = Packer(destination.partitions)
        self._sent: Counter[int] = Counter()
        self._progress_sent: asyncio.Future[Any] | None = None
        self._in_transaction = False
        # How many events of the present page each partition has acknowledged.
        self._acknowledged: Counter[int] = Counter()
        self._made_at = time.monotonic()
        self._producer = producers.new(client, destination.transactional_id, **options)
        self._guard = TopicGuard(destination.topic, None, {})

    async def start(self) -> Self:
        """Connect, and fence the predecessor: brokers refuse every batch that it sends from now on."""
        try:
            await producers.fence(
                self._client, self._destination.transactional_id, self._destination.all_partitions
            )
        except BaseException:
            await producers.abandon(self._producer)
            raise
        await producers.start(self._producer)
        if not self._transactional:
            producers.leave_transactions(self._producer)
        return self

    def watch(self, guard: TopicGuard) -> None:
        """Check the event topic with this guard before each commit."""
        self._guard = guard

    @property
    def must_be_replaced(self) -> bool:
        """Whether the producer has sent too many records to a partition, or is too old."""
        aged = time.monotonic() - self._made_at >= PRODUCER_AGE_S
        return aged or max(self._sent.values(), default=0) >= RECORDS_A_PRODUCER

    async def pack(self, rows: Sequence[Any]) -> list[Round]:
        """Pack rows into record batches, which only this publisher can send."""
        return await self._packer.pack(rows, self._producer.create_batch, int(time.time() * 1000))

    async def publish(self, rounds: list[Round], progress: bytes) -> dict[int, int]:
        """Publish the batches and the progress record; return the highest offset of each partition.

        All are committed when this returns. Without rounds only the progress record is published.
        After an error the outcome is unknown, until a new producer has started and the progress topic
        is read.

        Raises:
            TopicLostError: the event topic was deleted and made again; nothing was committed to it.
            TooSlowError: the time is over, although brokers answer and each partition has a leader.
        """
        self._acknowledged = Counter()
        publish = self._publish_transaction if self._transactional else self._publish_in_order
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                offsets = await publish(rounds, progress)
        except TimeoutError as error:
            await self._check_brokers(error)
            raise TooSlowError(self._acknowledged.total()) from error
        except LeaderNotAvailableError as error:
            await self._check_brokers(error)  # its error names the partitions
            raise
        except (KafkaError, AssertionError) as error:  # aiokafka asserts its own state
            raise _named(producers.failure(self._producer) or error) from error
        self._guard.advance(offsets)
        return offsets

    async def _check_brokers(self, cause: BaseException) -> None:
        """Raise the error that keeps brokers from accepting any page; TimeoutError if none answers."""
        client = self._producer.client
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                for topic in await metadata.topics(client, list(self._destination.all_partitions)):
                    metadata.check_usable(topic)
        except TimeoutError as error:
            message = (
                f"Kafka did not answer within {PUBLISH_TIMEOUT_S + CHECK_TIMEOUT_S} s; "
                "check the brokers"
            )
            raise await client.unreachable_brokers() or TimeoutError(message) from error
        if unreachable := await client.unreachable_brokers():
            raise unreachable from cause

    async def _publish_transaction(self, rounds: list[Round], progress: bytes) -> dict[int, int]:
        await self._producer.begin_transaction()
        self._in_transaction = True
        *earlier, last = rounds or [{}]
        offsets: dict[int, int] = {}
        for batches in earlier:
            offsets |= await self._offsets(await self._send(batches))
        sent = await self._send(last)
        progress_sent = await self._send_progress(progress)
        offsets |= await self._offsets(sent)
        await progress_sent
        await self._guard.check(self._producer.client, offsets, self._acknowledged)
        await self._producer.commit_transaction()
        self._in_transaction = False
        return offsets

    async def _publish_in_order(self, rounds: list[Round], progress: bytes) -> dict[int, int]:
        """Send one round after the other: with two in flight, a batch could overtake one that failed."""
        await self._guard.check_id(self._producer.client)
        offsets: dict[int, int] = {}
        for batches in rounds:
            offsets |= await self._offsets(await self._send(batches))
        self._guard.check_offsets(offsets)
        # The acknowledgement of this record is awaited after the next page, which need not wait for it.
        earlier, self._progress_sent = self._progress_sent, await self._send_progress(progress)
        if earlier is not None:
            await earlier
        return offsets

    async def _send(self, batches: Round) -> list[Sent]:
        """Send one batch for each partition. No await here lets the sender run, so they share a request."""
        sent = []
        for partition, batch in batches.items():
            count = batch.record_count()
            self._sent[partition] += count
            future = await self._producer.send_batch(
                batch, self._destination.topic, partition=partition
            )
            future.add_done_callback(retrieve_error)
            sent.append(Sent(partition, count, future))
        return sent

    async def _offsets(self, sent: Sequence[Sent]) -> dict[int, int]:
        """Return the offset of each batch's last record when brokers have acknowledged all batches."""
        await asyncio.gather(*(batch.acknowledgement for batch in sent))
        for batch in sent:
            self._acknowledged[batch.partition] += batch.records
        firsts = {batch.partition: batch.acknowledgement.result().offset for batch in sent}
        # A batch that a broker already had is acknowledged without an offset.
        return {
            batch.partition: firsts[batch.partition] + batch.records - 1
            for batch in sent
            if firsts[batch.partition] >= 0
        }

    async def _send_progress(self, progress: bytes) -> asyncio.Future[Any]:
        # Never compressed: one record of 400 bytes, which compaction soon deletes.
        batch = BatchBuilder(BATCH_BYTES, UNCOMPRESSED, is_transactional=self._transactional)
        batch.append(timestamp=None, key=PROGRESS_KEY, value=progress)
        future: asyncio.Future[Any] = await self._producer.send_batch(
            batch, self._destination.progress_topic, partition=0
        )
        future.add_done_callback(retrieve_error)
        return future

    async def close(self) -> None:
        """Abort the transaction in flight, if there is one, and disconnect."""
        if not self._in_transaction:
            with contextlib.suppress(KafkaError, TimeoutError, AssertionError):
                async with asyncio.timeout(producers.CLOSE_TIMEOUT_S):
                    await self._producer.stop()
        await producers.abandon(self._producer, aborting=self._in_transaction)


def _named(error: BaseException) -> Exception:
    """Return the error as the relay's own type, or as a KafkaError."""
    if isinstance(error, ProducerFenced):
        return FencedError()
    known: Exception = (
        error if isinstance(error, KafkaError) else KafkaError(f"{error!r} in the client")
    )
    return known
