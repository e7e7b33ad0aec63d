"""`verify`: compares the topic with the outbox, and reports missing, duplicated and altered events.

The topic and the outbox may hold more events than fit into memory. So the documents are divided into
shares, and both are read once for each share. The memory holds the share's events of the outbox, and
the last version of each of its documents. Records whose event is not in the outbox, or was published
after the command began, are compared only by the version of their document. A snapshot in the topic
replaces what subscribers know, so events before it may be repeated and versions used again after it.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

import asyncpg
import typer

from outbox_worker.kafka import administration, reading
from outbox_worker.operator import terminal
from outbox_worker.operator.comparison import Checker, OutboxEvent, Report, Share, digest
from outbox_worker.operator.published import last_progress
from outbox_worker.postgres.cursor import COVERED, Cursor
from outbox_worker.postgres.registration import required
from outbox_worker.postgres.sessions import session
from outbox_worker.settings import Settings

MAX_EVENTS = 500_000
"""The largest number of the outbox's events in memory, of about 350 bytes each."""
PREFETCH = 5_000
TIMEOUT_S = 600
MARGIN = timedelta(days=1)
"""The topic is read from the oldest row's time on, less this margin. Records have the time of the relay's
clock and rows that of the database's. Clocks that differ by a day would be noticed."""
PUBLISHED = f"""
SELECT event_id::text AS id, position, key, payload
FROM outbox
WHERE {COVERED}
ORDER BY position
"""  # noqa: S608 - made of constants
COUNT = f"""
SELECT count(*), min(created_at)
FROM outbox
WHERE {COVERED}
"""  # noqa: S608 - made of constants


class Published(NamedTuple):
    """The number of events in the outbox that are published, and the time of the oldest."""

    partitions: int
    """The number over which the relay hashes keys."""
    cursor: Cursor
    events: int
    oldest: datetime


def command(
    *,
    whole: Annotated[
        bool, typer.Option("--all", help="Read the topic from its beginning.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """Report events that are missing in the topic, or are there twice, out of order or altered.

    Reads the topic from a day before the outbox's oldest row on. It must have every published event of
    the outbox. Of other events, only the order of their document's versions is checked.
    """
    settings = terminal.settings()
    report = terminal.carry_out(verify(settings, whole=whole, shown=not as_json))
    terminal.show(report, _print, as_json=as_json)
    if report.faults:
        raise typer.Exit(terminal.FAILED)


async def verify(settings: Settings, *, whole: bool = False, shown: bool = False) -> Report:
    """Compare the published events of the outbox with the records of the topic."""
    async with session(settings.session_database_url, "verify", timeout_s=TIMEOUT_S) as connection:
        published = await _published(connection, settings)
    since = None if whole else published.oldest - MARGIN
    report = Report(since, outbox_events=published.events)
    client, topic = settings.kafka_client(), settings.topic
    async with administration.connect(client) as admin:
        partitions = await admin.partitions(topic)
    # The ends are read after the cursor, so the records of the events that it covers are before them.
    ends = await reading.end_offsets(client, topic, partitions)
    since_ms = None if since is None else int(since.timestamp() * 1000)
    starts = await reading.start_offsets(client, topic, ends, since_ms)
    readings = max(1, -(-published.events // MAX_EVENTS))
    total = readings * (sum(ends.values()) - sum(starts.values()))
    with terminal.progress_bar("topic", total, shown=shown) as step:
        for remainder in range(readings):
            share = Share(remainder, readings)
            known = await _outbox_events(settings, published.cursor, share, shown=shown)
            checker = Checker(known, published.partitions, report, share)
            async for records in reading.between(client, topic, starts, ends):
                for record in records:
                    checker.take(record)
                step(len(records))
            checker.conclude()
    return report


async def _published(connection: asyncpg.Connection, settings: Settings) -> Published:
    """Count the rows that the relay's cursor covers."""
    registration = await required(connection)
    progress = await last_progress(settings, connection, registration)
    ((events, oldest),) = await connection.fetch(COUNT, *progress.cursor.covered())
    return Published(registration.partitions, progress.cursor, events, oldest or datetime.now(UTC))


async def _outbox_events(
    settings: Settings, cursor: Cursor, share: Share, *, shown: bool
) -> dict[str, OutboxEvent]:
    """Return the published events of a share of the documents, by id."""
    known: dict[str, OutboxEvent] = {}
    async with session(settings.session_database_url, "verify", timeout_s=TIMEOUT_S) as connection:
        with terminal.progress_bar("outbox", None, shown=shown) as step:
            async with connection.transaction(readonly=True):
                rows = connection.cursor(PUBLISHED, *cursor.covered(), prefetch=PREFETCH)
                async for row in rows:
                    step(1)
                    if (key := row["key"].encode()) in share:
                        known[row["id"]] = OutboxEvent(row["position"], digest(key, row["payload"]))
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
    if not report.outbox_events:
        terminal.say("the outbox holds no published event, so there was nothing to look for")
    elif not report.faults:
        terminal.say("nothing missing, duplicated, out of order, out of sequence or altered")
