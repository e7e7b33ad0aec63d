"""`snapshot`: publishes one event for each link that is active now, for a new subscriber.

Each partition gets a marker before its events and one after them. A subscriber collects the events
between the two markers of one `snapshot-id`. At the end marker it replaces what it knows of that
partition's documents: a document without an event has no active link. A snapshot that was interrupted
has no end marker, so no subscriber uses it.

A topic of snapshots holds one snapshot: an earlier one is deleted first. The event topic keeps its
events, and its relay can run meanwhile. Every event before the first marker is in the snapshot, because
the database's snapshot is taken after the marker is acknowledged. A subscriber recognises later events
by their document's version.
"""

from typing import Annotated, Any

import asyncpg
import msgspec
import typer
from aiokafka.errors import PolicyViolationError, TopicAuthorizationFailedError

from outbox_worker.kafka import administration, reading
from outbox_worker.operator import terminal
from outbox_worker.operator.republisher import Republisher, problem_of
from outbox_worker.operator.snapshot_events import SNAPSHOT, Identity
from outbox_worker.postgres.registration import RefusedError, Registration, required
from outbox_worker.postgres.sessions import session
from outbox_worker.settings import Settings

PAGE_ROWS = 2_000
TIMEOUT_S = 3_600

COUNT = """
SELECT count(*)
FROM document_links
WHERE deleted_at IS NULL
"""

LINKS = """
SELECT l.workspace_id::text AS workspace, l.document_id AS document, d.version, l.id::text AS link,
    l.entity_type, l.entity_id, l.role,
    to_char(l.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at
FROM document_links AS l
JOIN documents AS d ON d.workspace_id = l.workspace_id AND d.id = l.document_id
WHERE l.deleted_at IS NULL
ORDER BY l.workspace_id, l.document_id, l.id
"""

TRY_LOCK = """
SELECT pg_try_advisory_lock(hashtextextended('document-links snapshot into ' || $1, 0))
"""


class Report(msgspec.Struct):
    """The links that were published, and the offsets at which a subscriber continues in the live topic.

    From those offsets on it skips events whose document_version is not greater than the one in the
    snapshot.
    """

    topic: str
    snapshot_id: str
    links: int
    continue_from: dict[int, int]


def command(
    *,
    topic: Annotated[str | None, typer.Option(help="By default <topic>.snapshot.")] = None,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """Publish every active link once, in place of the snapshot that the topic holds.

    Every record has the headers `snapshot: true` and `snapshot-id`. Each partition begins with an event
    `snapshot.began` and ends with `snapshot.ended`.
    """
    settings = terminal.settings()
    target = f"{settings.topic}.snapshot" if topic is None else topic
    if target == f"{settings.topic}.replay":
        terminal.fail(f"--topic: {target} is for replays: name another one", terminal.USAGE)
    if problem := problem_of(target):
        terminal.fail(f"--topic: {target!r} {problem}", terminal.USAGE)
    links = terminal.carry_out(count(settings))
    terminal.confirmed(_question(settings, target, links), yes=yes)
    identity = Identity.new()
    report = terminal.carry_out(
        snapshot(settings, target, identity, links, shown=not as_json),
        unfinished=f"snapshot {identity.id} in {target} has no end: run the command again",
    )
    terminal.show(report, _print, as_json=as_json)


def _question(settings: Settings, target: str, links: int) -> str:
    if target == settings.topic:
        return (
            f"Publish a snapshot of {links} active links to {target}, the event topic itself? "
            "All of its subscribers read it."
        )
    return (
        f"Publish a snapshot of {links} active links to {target}, "
        "in place of any earlier snapshot there?"
    )


async def count(settings: Settings) -> int:
    """Return the number of active links; RefusedError before the relay's first start."""
    async with session(
        settings.session_database_url, "snapshot", timeout_s=TIMEOUT_S
    ) as connection:
        await required(connection)
        links: int = await connection.fetchval(COUNT)
    return links


async def snapshot(
    settings: Settings, topic: str, identity: Identity, total: int, *, shown: bool = False
) -> Report:
    """Publish the links of one database snapshot, page by page, between the markers."""
    async with session(
        settings.session_database_url, "snapshot", timeout_s=TIMEOUT_S
    ) as connection:
        registration = await required(connection)
        if not await connection.fetchval(TRY_LOCK, topic):
            message = f"another snapshot into {topic} is being published: wait until it has ended"
            raise RefusedError(message)
        republisher = await Republisher.to(settings, topic, identity.headers, registration)
        if topic != settings.topic:
            await _delete_earlier(settings, topic, republisher.target.all_partitions)
        # The offsets are read first, so the database's snapshot has every event before them.
        offsets = await _offsets(settings, registration)
        async with republisher:
            partitions = range(republisher.target.all_partitions)
            key = identity.id.encode()
            await republisher.send_to_each(
                key, {each: identity.began(each, settings.topic, offsets) for each in partitions}
            )
            with terminal.progress_bar(SNAPSHOT, total, shown=shown) as step:
                links = await _send(connection, republisher, identity, step)
            await republisher.send_to_each(
                key, {each: identity.ended(each, republisher.sent[each]) for each in partitions}
            )
        return Report(topic, identity.id, links, offsets)


async def _offsets(settings: Settings, registration: Registration) -> dict[int, int]:
    async with administration.connect(settings.kafka_client()) as admin:
        if not await admin.exists(settings.topic):
            return {}
        partitions = min(registration.partitions, await admin.partitions(settings.topic))
    return await reading.end_offsets(settings.kafka_client(), settings.topic, partitions)


async def _delete_earlier(settings: Settings, topic: str, partitions: int) -> None:
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


async def _send(
    connection: asyncpg.Connection,
    republisher: Republisher,
    identity: Identity,
    step: terminal.Step,
) -> int:
    sent = 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        cursor = await connection.cursor(LINKS)
        while rows := await cursor.fetch(PAGE_ROWS):
            await republisher.send([identity.link(row) for row in rows])
            sent += len(rows)
            step(len(rows))
    return sent


def _print(report: Report) -> None:
    terminal.say(
        f"{report.links} active links published to {report.topic}, snapshot {report.snapshot_id}"
    )
    offsets = " ".join(
        f"{partition}:{offset}" for partition, offset in report.continue_from.items()
    )
    terminal.say(f"the live topic continues at (partition:offset) {offsets or 'its beginning'}")
