"""The steps of taking over: who we are, whether the topics are as they were, where to start."""

import msgspec

from outbox_worker import reading, topics
from outbox_worker.ledger import Checkpoints, Session
from outbox_worker.logs import Log, Told
from outbox_worker.progress import Held, Progress, Start, decide_start
from outbox_worker.registration import (
    Registration,
    check_schema,
    check_session,
    read_place,
    register,
    registered,
)
from outbox_worker.settings import Settings

log = Log("takeover")

STRAYS_SHOWN = 10


class TopicLostError(Exception):
    """The event topic is not the one that we wrote to: an operator must say what to do."""


async def identify(session: Session, settings: Settings) -> Registration:
    """Return who we are, after a look that this is our database; made at the first start."""
    async with session() as connection:
        await check_session(connection, settings.session_database_url)
        await check_schema(connection)
        place = await read_place(connection)
        registration = await registered(connection)
    if registration is None:
        async with topics.administration(settings.kafka_client()) as admin:
            await admin.ensure(settings.topic, settings.partitions, topics.EVENT_TOPIC)
            partitions = await admin.partitions(settings.topic)
        async with session() as connection:
            registration = await register(connection, place, partitions)
    registration.check(place)
    return registration


async def prepare_topics(settings: Settings, registration: Registration, told: Told) -> int:
    """Make the progress topic unless it is there; return the event topic's largest batch, bytes."""
    async with topics.administration(settings.kafka_client()) as admin:
        progress_topic = registration.progress_topic(settings.topic)
        await admin.ensure(progress_topic, 1, topics.PROGRESS_TOPIC)
        if not await admin.exists(settings.topic):
            return topics.DEFAULT_BATCH_BYTES
        configs = await admin.configs(settings.topic)
    _check_memory(settings.topic, configs, told)
    return topics.largest_batch(configs)


async def refuse_foreign(
    settings: Settings, registration: Registration, checkpoints: Checkpoints
) -> None:
    """Raise RefusedError if the progress is another database's: its relay must not be fenced.

    The record may change until that relay is fenced, and its open transaction is not waited for.
    """
    await _start(settings, registration, checkpoints, patience_s=0)


async def find_start(
    settings: Settings, registration: Registration, checkpoints: Checkpoints, told: Told
) -> Start:
    """Decide where to start from, once the relay before this one is fenced."""
    start, found = await _start(settings, registration, checkpoints, patience_s=reading.PATIENCE_S)
    if told.anew("progress.stray_records", found.strays or None):
        log.warning(
            "progress.stray_records",
            topic=registration.progress_topic(settings.topic),
            offsets=found.strays[:STRAYS_SHOWN],
            records=len(found.strays),
        )
    return start


async def _start(
    settings: Settings, registration: Registration, checkpoints: Checkpoints, *, patience_s: float
) -> tuple[Start, reading.LastProgress]:
    """Read the last committed record and the newest checkpoint; RefusedError if foreign."""
    topic = registration.progress_topic(settings.topic)
    found = await reading.last_progress(settings.kafka_client(), topic, patience_s=patience_s)
    record = found.record
    start = decide_start(
        record,
        await checkpoints.newest(),
        checkpoints.place,
        held=await _held(record, checkpoints),
        read_to_end=found.hidden_from is None,
    )
    return start, found


async def _held(record: Progress | None, checkpoints: Checkpoints) -> Held:
    if record is None:
        return Held(checkpoint=False, anchor=False)
    return Held(
        checkpoint=await checkpoints.known(record.checkpoint),
        anchor=record.anchor is None or await checkpoints.holds(record.anchor),
    )


async def check_topic(
    settings: Settings, registration: Registration, start: Start, told: Told, *, accept: bool
) -> Start:
    """Raise TopicLostError where the event topic was made anew, unless the operator accepts that.

    A topic that ends at or below what it once acknowledged is not the same topic.
    """
    async with topics.administration(settings.kafka_client()) as admin:
        missing = not await admin.exists(settings.topic)
        if missing and start.offsets and not accept:
            message = f"topic {settings.topic} is gone"
            raise TopicLostError(message)
        if missing:
            await admin.ensure(settings.topic, registration.partitions, topics.EVENT_TOPIC)
        partitions = await admin.partitions(settings.topic)
    _check_partitions(settings.topic, partitions, registration, told)
    if accept or not start.offsets:
        return msgspec.structs.replace(start, offsets={})
    ends = await reading.end_offsets(
        settings.kafka_client(), settings.topic, registration.partitions
    )
    short = [p for p, offset in start.offsets.items() if ends.get(p, 0) <= offset]
    if short:
        message = (
            f"topic {settings.topic} was made anew: its partitions {short} end below what they "
            "held; fill it (outbox_worker snapshot) or start with --accept-topic"
        )
        raise TopicLostError(message)
    return start


def _check_memory(topic: str, configs: dict[str, str], told: Told) -> None:
    """Warn of a topic that forgets: it cannot rebuild the database. Not ours to change."""
    policy, kept = configs.get("cleanup.policy", "delete"), topics.kept(configs)
    fields = {name.replace(".", "_"): value for name, value in kept.items()}
    forgets = "compact" in policy or kept != topics.FOR_EVER
    if told.anew("topic.forgets", (policy, fields) if forgets else None):
        log.warning("topic.forgets", topic=topic, cleanup_policy=policy, **fields)


def _check_partitions(topic: str, partitions: int, registration: Registration, told: Told) -> None:
    if partitions < registration.partitions:
        message = f"topic {topic} has {partitions} partitions, it had {registration.partitions}"
        raise TopicLostError(message)
    grown = partitions > registration.partitions
    if told.anew("topic.grown", partitions if grown else None):
        log.warning("topic.grown", partitions=partitions, hashed_by=registration.partitions)
