"""Producers of the relay's transactional id: how they begin and how they end.

All producers of one relay have one transactional id, in either delivery mode. The coordinator gives
each of them a higher epoch, and a partition refuses the batches of a lower epoch than the highest
that it has seen. So a producer first lets every partition see its epoch (`fence`): after that,
nothing that an older producer still has on its way is accepted, in a transaction or outside of one.
"""

import asyncio
import contextlib
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.producer import sender
from aiokafka.producer.transaction_manager import TransactionResult
from aiokafka.protocol.transaction import EndTxnRequest

from outbox_worker.settings import Settings

RETRY_BACKOFF_MS = 5
# A relay that died holds back every read_committed reader of the topic for this long.
TRANSACTION_TIMEOUT_MS = 10_000
START_TIMEOUT_S = 15
CLOSE_TIMEOUT_S = 1

# After a commit the broker is still writing its markers and answers "concurrent transactions";
# 20 ms, aiokafka's own value, is twice as long as a small transaction takes.
sender.BACKOFF_OVERRIDE = 0.002


def new(settings: Settings, name: str, **options: Any) -> AIOKafkaProducer:  # noqa: ANN401 - aiokafka's own
    """Return a producer with this transactional id, not yet started."""
    return AIOKafkaProducer(
        **settings.kafka_client(),
        client_id=name,
        enable_idempotence=True,
        transactional_id=name,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        retry_backoff_ms=RETRY_BACKOFF_MS,
        compression_type=settings.compression_type,
        **options,
    )


async def start(producer: AIOKafkaProducer) -> None:
    """Connect and take the next epoch.

    The coordinator first aborts the open transaction of the producer before, and answers once every
    partition of it has the marker.
    """
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await producer.start()
    except BaseException:
        await abandon(producer)
        raise


async def fence(settings: Settings, name: str, partitions_of: dict[str, int]) -> None:
    """Open a transaction on every partition, for the next producer's start to abort.

    Its abort markers are what shows the partitions the new epoch. Partitions that are not there
    have nothing to be fenced.
    """
    producer = new(settings, name)
    await start(producer)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
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
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
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
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await producer.client.close()
    if task is not None:
        await asyncio.wait([task], timeout=CLOSE_TIMEOUT_S)
    producer._closed = True  # noqa: SLF001 - or its finalizer warns
