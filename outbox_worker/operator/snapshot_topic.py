"""The topics of a snapshot: the end of the event topic, and the earlier snapshot in its own topic."""

from typing import Any

from aiokafka.errors import PolicyViolationError, TopicAuthorizationFailedError

from outbox_worker.kafka import administration, reading
from outbox_worker.operator.snapshot_events import SNAPSHOT
from outbox_worker.postgres.registration import RefusedError, Registration
from outbox_worker.settings import Settings


async def live_offsets(settings: Settings, registration: Registration) -> dict[int, int]:
    """Return the end of each partition of the event topic; empty if there is no such topic."""
    async with administration.connect(settings.kafka_client()) as admin:
        if not await admin.exists(settings.topic):
            return {}
        partitions = min(registration.partitions, await admin.partitions(settings.topic))
    return await reading.end_offsets(settings.kafka_client(), settings.topic, partitions)


async def delete_earlier(settings: Settings, topic: str, partitions: int) -> None:
    """Delete the snapshot in a topic; RefusedError if the topic has other records."""
    client = settings.kafka_client()
    ends = await reading.end_offsets(client, topic, partitions)
    try:
        starts = await reading.start_offsets(client, topic, ends, None)
        filled = {each: end for each, end in ends.items() if end > starts[each]}
        if not filled:
            return
        if not await _is_snapshot(client, topic, starts, filled):
            message = (
                f"topic {topic} has records that are no snapshot: name another one with --topic"
            )
            raise RefusedError(message)
        async with administration.connect(client) as admin:
            await admin.delete_records(topic, filled)
    except (TopicAuthorizationFailedError, PolicyViolationError):
        message = (
            f"topic {topic} holds an earlier snapshot that cannot be deleted: grant Read and "
            "Delete on the topic, or name another one with --topic"
        )
        raise RefusedError(message) from None


async def _is_snapshot(
    client: dict[str, Any], topic: str, starts: dict[int, int], ends: dict[int, int]
) -> bool:
    """Whether the first and the last record of each partition belong to a snapshot."""
    firsts = starts, {each: starts[each] + 1 for each in ends}
    lasts = {each: end - 1 for each, end in ends.items()}, ends
    found = [
        record
        for start_of, end_of in (firsts, lasts)
        async for records in reading.between(client, topic, start_of, end_of)
        for record in records
    ]
    marked = [record for record in found if SNAPSHOT in dict(record.headers)]
    return len(marked) == len(found) >= 2 * len(ends)
