"""Reads the relay's last progress for the commands, which are not the leader."""

import asyncpg

from outbox_worker.kafka import progress_topic
from outbox_worker.postgres import checkpoints
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import RefusedError, Registration
from outbox_worker.settings import Settings


async def last_progress(
    settings: Settings, connection: asyncpg.Connection, registration: Registration
) -> Progress:
    """Return the last progress record, or the newest checkpoint if the topic has no record.

    Raises:
        RefusedError: there is neither, so it is unknown which events are published.
    """
    topic = registration.progress_topic(settings.topic)
    progress = await progress_topic.read(settings.kafka_client(), topic)
    progress = progress or await checkpoints.newest(connection, registration.name)
    if progress is None:
        message = (
            f"which events relay {registration.name} has published is unknown: neither topic {topic} "
            "nor the database has a record of it; check OUTBOX_TOPIC and KAFKA_BOOTSTRAP_SERVERS"
        )
        raise RefusedError(message)
    return progress
