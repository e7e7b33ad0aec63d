"""`replay`: publishes events of the outbox again, with the same ids and a header."""

import re
from datetime import UTC, datetime
from typing import Annotated

import asyncpg
import msgspec
import typer

from outbox_worker.operator import terminal
from outbox_worker.operator.republisher import Republisher, problem_of
from outbox_worker.postgres.registration import registered
from outbox_worker.postgres.sessions import session
from outbox_worker.settings import Settings

HEADERS = [("replay", b"true")]
DOCUMENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
PAGE_ROWS = 2_000
TIMEOUT_S = 600

# $1 from, $2 until, $3 the id of a document or NULL. A key is workspace/document.
COUNT = """
SELECT count(*)
FROM outbox
WHERE created_at >= $1 AND created_at < $2 AND ($3::text IS NULL OR split_part(key, '/', 2) = $3)
"""

OLDEST = """
SELECT min(created_at)
FROM outbox
"""

ROWS = """
SELECT position, key, payload, traceparent
FROM outbox
WHERE created_at >= $1 AND created_at < $2 AND ($3::text IS NULL OR split_part(key, '/', 2) = $3)
ORDER BY position
"""


class Selection(msgspec.Struct):
    """The events to publish: `since` is included, `until` is not; `document` None: of all documents."""

    since: datetime
    until: datetime
    document: str | None


class Report(msgspec.Struct, omit_defaults=True):
    """The events that were or would be published; if there are none, the time of the oldest event."""

    topic: str
    events: int
    published: bool
    oldest_event: datetime | None = None


def command(  # noqa: PLR0913 - one parameter for each option
    *,
    since: Annotated[str, typer.Option("--from", help="ISO 8601; UTC without an offset.")],
    until: Annotated[str, typer.Option("--to", help="ISO 8601, not included.")],
    document: Annotated[str | None, typer.Option(help="Only this document's events.")] = None,
    topic: Annotated[str | None, typer.Option(help="By default <topic>.replay.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """Publish events of the outbox again, with the same ids and the header `replay: true`."""
    settings = terminal.settings()
    selection = Selection(_time(since, "--from"), _time(until, "--to"), document)
    report = Report(f"{settings.topic}.replay" if topic is None else topic, 0, published=False)
    if problem := _problem(settings, selection, report.topic):
        terminal.fail(problem, terminal.USAGE)
    report.events, report.oldest_event = terminal.carry_out(count(settings, selection))
    if report.events and not dry_run:
        terminal.confirmed(f"Publish {report.events} events to {report.topic}?", yes=yes)
        work = replay(settings, selection, report, shown=not as_json)
        report.events = terminal.carry_out(
            work, unfinished=f"{report.topic} has a part of the events: replay them again"
        )
        report.published = True
    terminal.show(report, _print, as_json=as_json)


def _problem(settings: Settings, selection: Selection, topic: str) -> str | None:
    """Return the first wrong option and its remedy, None if no option is wrong."""
    since, until, document = selection.since, selection.until, selection.document
    if problem := problem_of(topic):
        return f"--topic: {topic!r} {problem}"
    if topic == f"{settings.topic}.snapshot":
        return f"--topic: {topic} is for snapshots: name another one"
    if since >= until:
        return f"--from {since.isoformat()} is not before --to {until.isoformat()}: exchange them"
    if since > datetime.now(UTC):
        return f"--from {since.isoformat()} is in the future: name an earlier time"
    if document is not None and not DOCUMENT_ID.fullmatch(document):
        return (
            f"--document: {document!r} is no document's id: use 1 to 128 of A-Z a-z 0-9 _ - ., "
            "the first a letter or digit"
        )
    return None


async def count(settings: Settings, selection: Selection) -> tuple[int, datetime | None]:
    """Return the number of selected events; if it is 0, also the time of the oldest event of all."""
    async with session(settings.session_database_url, "replay", timeout_s=TIMEOUT_S) as connection:
        total: int = await connection.fetchval(COUNT, *_arguments(selection))
        oldest = None if total else await connection.fetchval(OLDEST)
    return total, oldest


async def replay(
    settings: Settings, selection: Selection, report: Report, *, shown: bool = False
) -> int:
    """Publish the selected events page by page; return their number."""
    async with session(settings.session_database_url, "replay", timeout_s=TIMEOUT_S) as connection:
        relay = await registered(connection)
        async with await Republisher.to(settings, report.topic, HEADERS, relay) as republisher:
            with terminal.progress_bar("replay", report.events, shown=shown) as step:
                return await _send(connection, selection, republisher, step)


async def _send(
    connection: asyncpg.Connection,
    selection: Selection,
    republisher: Republisher,
    step: terminal.Step,
) -> int:
    sent = 0
    async with connection.transaction(readonly=True):
        cursor = await connection.cursor(ROWS, *_arguments(selection))
        while rows := await cursor.fetch(PAGE_ROWS):
            await republisher.send(rows)
            sent += len(rows)
            step(len(rows))
    return sent


def _arguments(selection: Selection) -> tuple[datetime, datetime, str | None]:
    return selection.since, selection.until, selection.document


def _time(text: str, option: str) -> datetime:
    """Parse a time and return it in UTC."""
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # in UTC, the year may be 0 or 10000
        terminal.fail(
            f"{option}: {text} is not a time in ISO 8601: write it like 2030-01-31T12:00:00Z",
            terminal.USAGE,
        )


def _print(report: Report) -> None:
    if report.events:
        done = "published to" if report.published else "would be published to"
        terminal.say(f"{report.events} events {done} {report.topic}")
    elif report.oldest_event:
        terminal.say(
            "no events: the outbox has none in this selection; its oldest event is of "
            f"{report.oldest_event.isoformat()}"
        )
    else:
        terminal.say("no events: the outbox is empty")
