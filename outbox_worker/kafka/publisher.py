"""Everything Kafka on the hot path: one batch and the cursor after it, in one transaction.

aiokafka's promises were read in its source (0.14); what it does not promise:
  * a record that cannot be delivered fails its own future only, and a commit then succeeds
    without it: every future is looked at before the commit;
  * with idempotence a send never expires and stop() can hang: every await has a limit, and a
    producer that failed is abandoned, never used again;
  * the sequence number of a partition wraps wrongly: a producer is replaced long before.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from aiokafka.errors import KafkaError, LeaderNotAvailableError, ProducerFenced

from outbox_worker.kafka import metadata, producers
from outbox_worker.kafka.guard import TopicGuard
from outbox_worker.kafka.records import Batch, Packer
from outbox_worker.tasks import retrieve_error

# Less than the transaction's time-out, so that the relay ends a slow transaction before the broker
# does. The broker would raise the epoch, and a producer whose transaction has expired gets the same
# error as one that another worker has fenced.
PUBLISH_TIMEOUT_S = 9
# For one look at the topics, after a page that took too long.
LOOK_TIMEOUT_S = 3
BATCH_BYTES = 1_000_000
# Below this a batch may not hold one event of the greatest size that the table allows.
LEAST_BATCH_BYTES = 20_000
RECORDS_A_PRODUCER = 2**30
# The coordinator forgets a transactional id that began no transaction for 7 days
# (transactional.id.expiration.ms), and the next producer's epoch then fences nobody.
PRODUCER_AGE_S = 24 * 3600


Round = dict[int, Batch]


class Sent(NamedTuple):
    """A batch on its way."""

    partition: int
    records: int
    acknowledgement: asyncio.Future[Any]


class FencedError(Exception):
    """Another relay has taken over: this one must stop, whatever its lock says."""


class TooSlowError(KafkaError):  # type: ignore[misc] # aiokafka has no types
    """A page was not published within PUBLISH_TIMEOUT_S; `acknowledged`: how many events of it were."""

    def __init__(self, acknowledged: int) -> None:
        super().__init__(
            f"a page was not published within {PUBLISH_TIMEOUT_S} s, in which brokers acknowledged "
            f"{acknowledged} events; it is tried again with fewer events"
        )
        self.acknowledged = acknowledged


class Destination(NamedTuple):
    """Where a relay publishes to: `partitions` is the number over which it hashes keys."""

    topic: str
    progress_topic: str
    partitions: int
    transactional_id: str

    @property
    def all_partitions(self) -> dict[str, int]:
        """The number of partitions that the relay writes to in each topic."""
        return {self.topic: self.partitions, self.progress_topic: 1}


class Publisher:
    """One producer's life. After any error it is done with: close it and start another."""

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
        self._mark: asyncio.Future[Any] | None = None
        self._in_transaction = False
        # How many events of the page that is being published each partition has.
        self._acknowledged: Counter[int] = Counter()
        self._made_at = time.monotonic()
        self._producer = producers.new(client, destination.transactional_id, **options)
        self._guard = TopicGuard(destination.topic, None, {})

    async def start(self) -> Self:
        """Connect, and fence the relay before: nothing that it sends from now on is accepted."""
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
        """Publish only while the guard finds the event topic to be the same."""
        self._guard = guard

    @property
    def must_be_replaced(self) -> bool:
        """Whether a partition's sequence number or the coordinator's memory comes near its end."""
        aged = time.monotonic() - self._made_at >= PRODUCER_AGE_S
        return aged or max(self._sent.values(), default=0) >= RECORDS_A_PRODUCER

    def pack(self, rows: Sequence[Any]) -> list[Round]:
        """Turn rows into batches, to be sent by this publisher only."""
        return self._packer.pack(rows, self._producer.create_batch, int(time.time() * 1000))

    async def publish(self, rounds: list[Round], progress: bytes) -> dict[int, int]:
        """Send the batches and the progress record; return the highest offset of each partition.

        All are committed when this returns. Without rounds only the record is published. Any
        error leaves the outcome unknown: the progress topic tells, once a new producer has started.
        TopicLostError: the event topic was made anew, and a transaction is not committed.
        TooSlowError: it took too long, although brokers answer and every partition has a leader.
        """
        self._acknowledged = Counter()
        publish = self._publish_transaction if self._transactional else self._publish_in_order
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                offsets = await publish(rounds, progress)
        except TimeoutError as error:
            await self._raise_obstacles(error)
            raise TooSlowError(self._acknowledged.total()) from error
        except LeaderNotAvailableError as error:
            await self._raise_obstacles(error)  # it names the partitions
            raise
        except (KafkaError, AssertionError) as error:  # aiokafka asserts that it can go on
            raise _named(producers.failure(self._producer) or error) from error
        self._guard.passed(offsets)
        return offsets

    async def _raise_obstacles(self, cause: BaseException) -> None:
        """Raise what keeps the brokers from taking any page, if there is such a thing.

        TimeoutError: no broker answers.
        """
        client = self._producer.client
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                for topic in await metadata.topics(client, list(self._destination.all_partitions)):
                    metadata.check_usable(topic)
        except TimeoutError as error:
            message = (
                f"Kafka did not answer within {PUBLISH_TIMEOUT_S + LOOK_TIMEOUT_S} s; "
                "look at the brokers"
            )
            raise await client.unreachable_brokers() or TimeoutError(message) from error
        if obstacle := await client.unreachable_brokers():
            raise obstacle from cause

    async def _publish_transaction(self, rounds: list[Round], progress: bytes) -> dict[int, int]:
        await self._producer.begin_transaction()
        self._in_transaction = True
        *earlier, last = rounds or [{}]
        offsets: dict[int, int] = {}
        for batches in earlier:
            offsets |= await self._offsets(await self._send(batches))
        sent = await self._send(last)
        mark = await self._send_progress(progress)
        offsets |= await self._offsets(sent)
        await mark
        await self._guard.check(self._producer.client, offsets, self._acknowledged)
        await self._producer.commit_transaction()
        self._in_transaction = False
        return offsets

    async def _publish_in_order(self, rounds: list[Round], progress: bytes) -> dict[int, int]:
        """Send one round at a time: with more in flight, a batch could overtake one that failed."""
        await self._guard.check_id(self._producer.client)
        offsets: dict[int, int] = {}
        for batches in rounds:
            offsets |= await self._offsets(await self._send(batches))
        self._guard.check_offsets(offsets)
        # Its acknowledgement is waited for with the next one's: the next batch need not wait.
        earlier, self._mark = self._mark, await self._send_progress(progress)
        if earlier is not None:
            await earlier
        return offsets

    async def _send(self, batches: Round) -> list[Sent]:
        """Hand over one batch a partition; no await in here waits, so they go in one request."""
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
        """Return the last record's offset of each batch, once the brokers have them all."""
        await asyncio.gather(*(batch.acknowledgement for batch in sent))
        for batch in sent:
            self._acknowledged[batch.partition] += batch.records
        firsts = {batch.partition: batch.acknowledgement.result().offset for batch in sent}
        # A batch that the broker knew already is acknowledged without an offset.
        return {
            batch.partition: firsts[batch.partition] + batch.records - 1
            for batch in sent
            if firsts[batch.partition] >= 0
        }

    async def _send_progress(self, progress: bytes) -> asyncio.Future[Any]:
        batch = self._producer.create_batch()
        batch.append(timestamp=None, key=b"cursor", value=progress)
        future: asyncio.Future[Any] = await self._producer.send_batch(
            batch, self._destination.progress_topic, partition=0
        )
        future.add_done_callback(retrieve_error)
        return future

    async def close(self) -> None:
        """Leave nothing open: abort the transaction in flight, if there is one, and disconnect."""
        if not self._in_transaction:
            with contextlib.suppress(KafkaError, TimeoutError, AssertionError):
                async with asyncio.timeout(producers.CLOSE_TIMEOUT_S):
                    await self._producer.stop()
        await producers.abandon(self._producer, aborting=self._in_transaction)


def _named(error: BaseException) -> Exception:
    """Return the error under the name that the relay knows it by."""
    if isinstance(error, ProducerFenced):
        return FencedError()
    known: Exception = (
        error if isinstance(error, KafkaError) else KafkaError(f"{error!r} in the client")
    )
    return known
