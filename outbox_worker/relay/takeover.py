"""The steps of taking over: who we are, whether the topics are as they were, where to start."""

import msgspec

from outbox_worker.kafka import reading, topics
from outbox_worker.kafka.guard import WHAT_TO_DO
from outbox_worker.kafka.progress import Held, Progress, Start, decide_start
from outbox_worker.kafka.topics import TopicLostError
from outbox_worker.logs import get_logger
from outbox_worker.postgres.registration import (
    Registration,
    check_schema,
    check_session,
    read_place,
    register,
    registered,
)
from outbox_worker.relay.health import Told
from outbox_worker.relay.ledger import Checkpoints, Session
from outbox_worker.settings import Settings

log = get_logger(__name__)

STRAYS_SHOWN = 10


async def identify(session: Session, settings: Settings, told: Told) -> Registration:
    """Return who we are, after a look that this is our database; made at the first start."""
    async with session() as connection:
        await check_session(connection, settings.session_database_url)
        await check_schema(connection)
        place = await read_place(connection)
        undetected = place.undetected()
        if told.anew("relay.place_unreadable", undetected or None):
            log.warning("relay.place_unreadable", undetected=undetected)
        registration = await registered(connection)
    if registration is None:
        async with topics.administration(settings.kafka_client()) as admin:
            await _make(admin, settings.topic, settings.partitions, topics.EVENT_TOPIC)
            partitions = await admin.partitions(settings.topic)
        async with session() as connection:
            registration = await register(connection, place, partitions)
    registration.check(place)
    return registration


async def prepare_topics(settings: Settings, registration: Registration, told: Told) -> int:
    """Make the progress topic unless it is there; return the event topic's largest batch, bytes."""
    async with topics.administration(settings.kafka_client()) as admin:
        progress_topic = registration.progress_topic(settings.topic)
        await _make(admin, progress_topic, 1, topics.PROGRESS_TOPIC)
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

    Such a topic has another id. If the id is not known, it ends at or below an offset that was
    acknowledged before.
    """
    topic = settings.topic
    # The offsets in a record are those before its own batch.
    published = bool(start.offsets or start.events)
    async with topics.administration(settings.kafka_client()) as admin:
        if not await admin.exists(topic):
            if published and not accept:
                message = f"topic {topic} is gone; {WHAT_TO_DO}"
                raise TopicLostError(message)
            await _make(admin, topic, registration.partitions, topics.EVENT_TOPIC)
        described = await admin.described(topic)
    _check_partitions(topic, len(described.partitions), registration, told)
    if accept or not published:
        return msgspec.structs.replace(start, offsets={}, topic_id=described.id)
    if described.id and start.topic_id and described.id != start.topic_id:
        message = f"topic {topic} was made anew: its id was {start.topic_id}; {WHAT_TO_DO}"
        raise TopicLostError(message)
    await _check_ends(settings, registration, start)
    return msgspec.structs.replace(start, topic_id=described.id or start.topic_id)


async def _check_ends(settings: Settings, registration: Registration, start: Start) -> None:
    ends = await reading.end_offsets(
        settings.kafka_client(), settings.topic, registration.partitions
    )
    short = [p for p, offset in start.offsets.items() if ends.get(p, 0) <= offset]
    if short:
        message = (
            f"topic {settings.topic} was made anew or has lost records: its partitions {short} end "
            f"below what they held; {WHAT_TO_DO}"
        )
        raise TopicLostError(message)


async def _make(admin: topics.Topics, topic: str, partitions: int, configs: dict[str, str]) -> None:
    """Make a topic unless it is there; warn if it has fewer replicas than brokers are told to give."""
    replicas = await admin.ensure(topic, partitions, configs)
    if replicas is not None:
        configured = await admin.configured_replication()
        fields = {"topic": topic, "partitions": partitions, "replicas": replicas}
        log.info("topic.made", **fields)
        if replicas < configured:
            log.warning("topic.few_replicas", **fields, configured=configured)


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
