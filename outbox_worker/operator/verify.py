"""`verify`: holds the topic against the outbox; missing, duplicated, out of order, altered.

The topic is kept for ever, and the outbox may hold more events than fit into memory. Both are read
once for each share of the documents: what is remembered are that share's events in the outbox, and
of each of its documents the last version. Records of other events, older than the outbox or
published while this runs, are held against their document's versions only.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

import asyncpg
import typer

from outbox_worker.kafka import administration, progress_topic, reading
from outbox_worker.operator import terminal
from outbox_worker.operator.comparison import Checker, Known, Report, Share, digest
from outbox_worker.postgres import checkpoints
from outbox_worker.postgres.cursor import COVERED, Cursor
from outbox_worker.postgres.registration import required
from outbox_worker.postgres.sessions import session
from outbox_worker.settings import Settings

MAX_EVENTS = 500_000
"""Events of the outbox that are remembered at once, at about 350 bytes each."""
PREFETCH = 5_000
TIMEOUT_S = 600
# A record has the relay's time, later than its row's but for the clocks: a day is far more than
# they can be apart unnoticed.
MARGIN = timedelta(days=1)
PUBLISHED = f"""
SELECT event_id::text AS id, position, key, payload
FROM outbox
WHERE {COVERED}
ORDER BY position
"""  # noqa: S608 - put together from constants
COUNT = f"""
SELECT count(*), min(created_at)
FROM outbox
WHERE {COVERED}
"""  # noqa: S608 - put together from constants


class Published(NamedTuple):
    """What the relay says it has published and the outbox still holds: how much, and since when."""

    partitions: int
    """As the relay counts them."""
    cursor: Cursor | None
    """None: nothing has been published."""
    events: int
    oldest: datetime


def command(
    *,
    whole: Annotated[
        bool, typer.Option("--all", help="Read the topic from its beginning.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """Report the events that the topic is missing, or has twice, out of order or altered.

    Reads the topic from a day before the outbox's oldest row on. Every event that the outbox
    holds as published is looked for; every other one must follow its document's version.
    """
    settings = terminal.settings()
    report = terminal.carry_out(verify(settings, whole=whole, shown=not as_json))
    terminal.show(report, _print, as_json=as_json)
    if report.faults:
        raise typer.Exit(terminal.FAILED)


async def verify(settings: Settings, *, whole: bool = False, shown: bool = False) -> Report:
    """Compare what the relay says it has published with what the topic holds."""
    async with session(settings.session_database_url, "verify", timeout_s=TIMEOUT_S) as connection:
        published = await _published(connection, settings)
    since = None if whole else published.oldest - MARGIN
    report = Report(since, outbox_events=published.events)
    client, topic = settings.kafka_client(), settings.topic
    async with administration.connect(client) as admin:
        partitions = await admin.partitions(topic)
    # The ends after the cursor: what it covers is before them.
    ends = await reading.end_offsets(client, topic, partitions)
    since_ms = None if since is None else int(since.timestamp() * 1000)
    starts = await reading.start_offsets(client, topic, ends, since_ms)
    readings = max(1, -(-published.events // MAX_EVENTS))
    total = readings * (sum(ends.values()) - sum(starts.values()))
    with terminal.progress_bar("topic", total, shown=shown) as step:
        for remainder in range(readings):
            share = Share(remainder, readings)
            known = await _known(settings, published.cursor, share, shown=shown)
            checker = Checker(known, published.partitions, report, share)
            async for records in reading.between(client, topic, starts, ends):
                for record in records:
                    checker.take(record)
                step(len(records))
            checker.conclude()
    return report


async def _published(connection: asyncpg.Connection, settings: Settings) -> Published:
    """Return what the relay has published of what the outbox still holds."""
    registration = await required(connection)
    topic = registration.progress_topic(settings.topic)
    progress = await progress_topic.read(settings.kafka_client(), topic)
    progress = progress or await checkpoints.newest(connection, registration.name)
    if progress is None:
        return Published(registration.partitions, None, 0, datetime.now(UTC))
    row = await connection.fetchrow(COUNT, *progress.cursor.covered())
    events, oldest = row or (0, None)
    return Published(registration.partitions, progress.cursor, events, oldest or datetime.now(UTC))


async def _known(
    settings: Settings, cursor: Cursor | None, share: Share, *, shown: bool
) -> dict[str, Known]:
    """Return the published events of these documents by their ids."""
    known: dict[str, Known] = {}
    if cursor is None:
        return known
    async with session(settings.session_database_url, "verify", timeout_s=TIMEOUT_S) as connection:
        with terminal.progress_bar("outbox", None, shown=shown) as step:
            async with connection.transaction(readonly=True):
                rows = connection.cursor(PUBLISHED, *cursor.covered(), prefetch=PREFETCH)
                async for row in rows:
                    step(1)
                    if (key := row["key"].encode()) in share:
                        known[row["id"]] = Known(row["position"], digest(key, row["payload"]))
    return known


def _print(report: Report) -> None:
    span = "in the topic" if report.since is None else f"in the topic since {report.since}"
    terminal.say(
        f"{report.outbox_events} published events in the outbox, "
        f"{report.topic_records} records {span} "
        f"({report.not_compared} of other events: older, or published meanwhile)"
    )
    for fault, count in report.faults.items():
        examples = ", ".join(report.examples[fault])
        terminal.say(f"{fault.replace('_', ' ')}: {count} ({examples})")
    if not report.faults:
        terminal.say("nothing missing, duplicated, out of order, out of sequence or altered")
