"""Producers of the relay's transactional id: how they begin and how they end.

All producers of one relay have one transactional id, in either delivery mode. The coordinator gives
each of them a higher epoch, and a partition refuses the batches of a lower epoch than the highest
that it has seen. So a producer first lets every partition see its epoch (`fence`): after that,
nothing that an older producer still has on its way is accepted, in a transaction or outside of one.
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
# A relay that died holds back every read_committed reader of the topic for this long.
TRANSACTION_TIMEOUT_MS = 10_000
START_TIMEOUT_S = 15
CLOSE_TIMEOUT_S = 1
# Two round trips, as the connection may have been idle.
ABORT_TIMEOUT_S = 2

MARKERS_BACKOFF_S = 0.002
"""The wait for the markers of the last transaction. aiokafka's own value, 20 ms, is twice as long as a
small transaction takes."""


def new(client: dict[str, Any], name: str, **options: Any) -> AIOKafkaProducer:  # noqa: ANN401 - aiokafka's own
    """Return a producer with this transactional id, not yet started."""
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
    """Batches that are being sent; removing one that is not among them is no error.

    aiokafka removes a batch when it has failed, also one that waits to be sent again. It leaves the
    error in the batch's future, which asyncio logs where the relay does not wait any more.
    """

    def add(self, batch: Any) -> None:  # noqa: ANN401 - aiokafka's own
        """Add a batch, and look at the error with which it may fail."""
        super().add(batch)
        batch.future.add_done_callback(retrieve_error)

    def remove(self, batch: Any) -> None:  # noqa: ANN401 - aiokafka's own
        """Remove a batch, if it is among them."""
        self.discard(batch)


async def start(producer: AIOKafkaProducer) -> None:
    """Connect and take the next epoch.

    The coordinator first aborts the open transaction of the producer before, and answers once every
    partition of it has the marker.
    """
    try:
        async with _time_limit(producer):
            await producer.start()
    except BaseException:
        await abandon(producer)
        raise


@contextlib.asynccontextmanager
async def _time_limit(producer: AIOKafkaProducer) -> AsyncIterator[None]:
    """Raise TimeoutError after START_TIMEOUT_S, or why brokers cannot be reached if that is so."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            yield
    except TimeoutError as error:
        message = (
            f"the transaction coordinator has not answered within {START_TIMEOUT_S} s; "
            "look at the brokers"
        )
        raise await producer.client.unreachable_brokers() or TimeoutError(message) from error


async def fence(client: dict[str, Any], name: str, partitions_of: dict[str, int]) -> None:
    """Open a transaction on every partition, for the next producer's start to abort.

    Its abort markers are what shows the partitions the new epoch. Partitions that are not there
    have nothing to be fenced.
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
    """Return once the coordinator has every partition; raise what the sender ended with."""
    transaction, task = producer._txn_manager, producer._sender.sender_task  # noqa: SLF001 - as above
    while transaction.partitions_to_add() and not task.done():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(RETRY_BACKOFF_MS / 1000)
    if task.done():
        task.result()
    if transaction.wait_for_transaction_end().done():
        transaction.wait_for_transaction_end().result()


def leave_transactions(producer: AIOKafkaProducer) -> None:
    """Let a started producer send outside of transactions, with the id and the epoch that it has."""
    producer._txn_manager.transactional_id = None  # noqa: SLF001 - the client has no call for it


def failure(producer: AIOKafkaProducer) -> KafkaError | None:
    """Return what ended the producer's sender; None if it runs.

    aiokafka wraps most errors in one that says "unexpected", whose copies lose the cause.
    """
    task = producer._sender.sender_task  # noqa: SLF001 - the client has no call for it
    if task is None or not task.done() or task.cancelled() or task.exception() is None:
        return None
    error = task.exception()
    cause = error.__cause__ or error
    return cause if isinstance(cause, KafkaError) else KafkaError(f"{error}: {cause!r}")


async def abort(producer: AIOKafkaProducer) -> None:
    """Ask the coordinator to abort the open transaction, without waiting for batches in flight.

    aiokafka's own abort waits for them without end. A broker that verifies transactions (from 3.6)
    refuses a batch that arrives later; with older ones the next producer's fence ends it.
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
    """Drop the connections without flushing; bounded, unlike stop().

    With `aborting` the open transaction is aborted first.
    """
    task = producer._sender.sender_task  # noqa: SLF001 - stop() waits for it without end
    if task is not None:
        task.cancel()  # from now on it sends nothing new, and waits for what is in flight
    if aborting:
        await abort(producer)
    # Nobody waits for a commit here, so failing what is pending cannot commit a part of it.
    producer._message_accumulator.fail_all(KafkaError("abandoned"))  # noqa: SLF001 - frees those who wait
    _look_at_failures(producer)
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await producer.client.close()
    if task is not None:
        await asyncio.wait([task], timeout=CLOSE_TIMEOUT_S)
    producer._closed = True  # noqa: SLF001 - or its finalizer warns


def _look_at_failures(producer: AIOKafkaProducer) -> None:
    """Look at the errors of the transaction, and of batches that were not sent."""
    batches = producer._message_accumulator._batches.values()  # noqa: SLF001 - the client has no call for it
    futures = [producer._txn_manager._transaction_waiter]  # noqa: SLF001 - as above
    for batch in [batch for waiting in batches for batch in waiting]:
        futures += [batch.future, batch._drain_waiter]  # noqa: SLF001 - as above
    for future in futures:
        if future is not None and future.done():
            retrieve_error(future)
