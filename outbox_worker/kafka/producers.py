"""Producers with the relay's transactional id: how they start, fence each other and end.

All producers of one relay have one transactional id, in either delivery mode. The coordinator gives
each of them a higher epoch, and a partition refuses batches of a lower epoch than the highest that it
has seen. So a producer first shows its epoch to every partition (`fence`). After that, no partition
accepts what an older producer still has in flight, in a transaction or outside of one.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.producer import sender
from aiokafka.producer.transaction_manager import TransactionResult
from aiokafka.protocol.transaction import EndTxnRequest

from outbox_worker.tasks import retrieve_error

RETRY_BACKOFF_MS = 5
TRANSACTION_TIMEOUT_MS = 10_000
"""The open transaction of a dead relay holds back every read_committed reader of the topic for so long."""
START_TIMEOUT_S = 15
CLOSE_TIMEOUT_S = 1
ABORT_TIMEOUT_S = 2
"""Enough for two round trips: a connection that was idle is checked first."""

MARKERS_BACKOFF_S = 0.002
"""The wait for the markers of the last transaction. aiokafka's own value, 20 ms, is twice the time of a
small transaction."""


def new(client: dict[str, Any], name: str, **options: Any) -> AIOKafkaProducer:  # noqa: ANN401 - aiokafka's own
    """Return a producer with this transactional id, not started yet."""
    producer = AIOKafkaProducer(
        **client,
        client_id=name,
        enable_idempotence=True,
        transactional_id=name,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        retry_backoff_ms=RETRY_BACKOFF_MS,
        **options,
    )
    producer._message_accumulator._pending_batches = _Batches()  # noqa: SLF001 - see the class
    _shorten_backoff(producer)
    return producer


class _AddPartitions(sender.AddPartitionsToTxnHandler):  # type: ignore[misc] # aiokafka has no types
    """Adds partitions to a transaction.

    The coordinator answers "concurrent transactions" while the markers of the last transaction are
    being written.
    """

    def handle_response(self, response: Any) -> float | None:  # noqa: ANN401 - aiokafka's own
        """Return how long to wait before the request is sent again, None if it has succeeded."""
        backoff_s: float | None = super().handle_response(response)
        return MARKERS_BACKOFF_S if backoff_s == sender.BACKOFF_OVERRIDE else backoff_s


def _shorten_backoff(producer: AIOKafkaProducer) -> None:
    """Let this producer wait for markers as _AddPartitions does: aiokafka has no parameter for it."""
    own = producer._sender  # noqa: SLF001 - as above

    async def add_partitions(partitions: set[TopicPartition]) -> Any:  # noqa: ANN401 - aiokafka's own
        name = own._txn_manager.transactional_id  # noqa: SLF001 - as above
        node = await own._find_coordinator(CoordinationType.TRANSACTION, name)  # noqa: SLF001 - as above
        return await _AddPartitions(own, partitions).do(node)

    own._do_add_partitions_to_txn = add_partitions  # noqa: SLF001 - as above


class _Batches(set[Any]):
    """aiokafka's set of batches in flight; removing a batch that is not in the set is no error.

    aiokafka removes each batch that fails, also one that waits for a retry and is not in the set. It
    sets the error in the batch's future. asyncio would log that error if the relay has stopped waiting.
    """

    def add(self, batch: Any) -> None:  # noqa: ANN401 - aiokafka's own
        """Add a batch, and retrieve the error with which it may fail."""
        super().add(batch)
        batch.future.add_done_callback(retrieve_error)

    def remove(self, batch: Any) -> None:  # noqa: ANN401 - aiokafka's own
        """Remove a batch if it is in the set."""
        self.discard(batch)


async def start(producer: AIOKafkaProducer) -> None:
    """Connect and get the next epoch.

    The coordinator first aborts the previous producer's open transaction. It answers when each
    partition of that transaction has the abort marker.
    """
    try:
        async with _time_limit(producer):
            await producer.start()
    except BaseException:
        await abandon(producer)
        raise


@contextlib.asynccontextmanager
async def _time_limit(producer: AIOKafkaProducer) -> AsyncIterator[None]:
    """Raise TimeoutError after START_TIMEOUT_S, or an error that names the unreachable brokers."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            yield
    except TimeoutError as error:
        message = (
            f"the transaction coordinator has not answered within {START_TIMEOUT_S} s; "
            "check the brokers"
        )
        raise await producer.client.unreachable_brokers() or TimeoutError(message) from error


async def fence(client: dict[str, Any], name: str, partitions_of: dict[str, int]) -> None:
    """Open a transaction on every partition, which the start of the next producer aborts.

    The abort markers show the new epoch to the partitions. A topic that does not exist is left out.
    """
    producer = new(client, name)
    await start(producer)
    try:
        async with _time_limit(producer):
            cluster = await producer.client.fetch_all_metadata()
            await producer.begin_transaction()
            transaction = producer._txn_manager  # noqa: SLF001 - send() adds one partition at a time
            for topic, count in partitions_of.items():
                for partition in cluster.partitions_for_topic(topic) or ():
                    if partition < count:
                        transaction.maybe_add_partition_to_txn(TopicPartition(topic, partition))
            await _added(producer)
    finally:
        await abandon(producer)


async def _added(producer: AIOKafkaProducer) -> None:
    """Return when the coordinator has added every partition; raise the error of the sender task."""
    transaction, task = producer._txn_manager, producer._sender.sender_task  # noqa: SLF001 - as above
    while transaction.partitions_to_add() and not task.done():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(RETRY_BACKOFF_MS / 1000)
    if task.done():
        task.result()
    if transaction.wait_for_transaction_end().done():
        transaction.wait_for_transaction_end().result()


def leave_transactions(producer: AIOKafkaProducer) -> None:
    """Let a started producer send outside of transactions, with its producer id and epoch."""
    producer._txn_manager.transactional_id = None  # noqa: SLF001 - the client has no call for it


def failure(producer: AIOKafkaProducer) -> KafkaError | None:
    """Return the error that ended the producer's sender task; None if the task runs.

    aiokafka wraps most errors in one that says "unexpected", and copies of that one lose the cause.
    """
    task = producer._sender.sender_task  # noqa: SLF001 - the client has no call for it
    if task is None or not task.done() or task.cancelled() or task.exception() is None:
        return None
    error = task.exception()
    cause = error.__cause__ or error
    return cause if isinstance(cause, KafkaError) else KafkaError(f"{error}: {cause!r}")


async def abort(producer: AIOKafkaProducer) -> None:
    """Ask the coordinator to abort the open transaction, without waiting for batches in flight.

    aiokafka's own abort waits for these batches without a time limit. Brokers from 3.6 on verify
    transactions and refuse a batch that arrives later. With older brokers the next producer's fence
    aborts such a batch.
    """
    transaction = producer._txn_manager  # noqa: SLF001 - the client has no call for it
    coordinator = producer._sender._coordinators.get(CoordinationType.TRANSACTION)  # noqa: SLF001 - as above
    if coordinator is None:
        return
    request = EndTxnRequest(
        transactional_id=transaction.transactional_id,
        producer_id=transaction.producer_id,
        producer_epoch=transaction.producer_epoch,
        transaction_result=TransactionResult.ABORT,
    )
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(ABORT_TIMEOUT_S):
            await producer.client.send(coordinator, request, group=ConnectionGroup.COORDINATION)


async def abandon(producer: AIOKafkaProducer, *, aborting: bool = False) -> None:
    """Close the connections without flushing, within a time limit, which stop() does not have.

    `aborting`: the open transaction is aborted first.
    """
    task = producer._sender.sender_task  # noqa: SLF001 - stop() waits for it without end
    if task is not None:
        task.cancel()  # it sends no new request, and waits for those in flight
    if aborting:
        await abort(producer)
    # No commit follows, so the batches that fail here cannot leave a part of a transaction committed.
    producer._message_accumulator.fail_all(KafkaError("abandoned"))  # noqa: SLF001 - ends every wait for a batch
    _retrieve_errors(producer)
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await producer.client.close()
    if task is not None:
        await asyncio.wait([task], timeout=CLOSE_TIMEOUT_S)
    producer._closed = True  # noqa: SLF001 - else its finalizer warns


def _retrieve_errors(producer: AIOKafkaProducer) -> None:
    """Retrieve the errors of the transaction and of the batches that were not sent."""
    batches = producer._message_accumulator._batches.values()  # noqa: SLF001 - the client has no call for it
    futures = [producer._txn_manager._transaction_waiter]  # noqa: SLF001 - as above
    for batch in [batch for waiting in batches for batch in waiting]:
        futures += [batch.future, batch._drain_waiter]  # noqa: SLF001 - as above
    for future in futures:
        if future is not None and future.done():
            retrieve_error(future)
