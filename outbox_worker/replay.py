"""`replay`: publishes again what the outbox still holds, with the same ids, marked as a replay."""

from datetime import UTC, datetime
from typing import Annotated

import asyncpg
import msgspec
import typer

from outbox_worker import terminal
from outbox_worker.courier import Courier
from outbox_worker.registration import registered
from outbox_worker.sessions import connect, disconnect
from outbox_worker.settings import Settings

MARK = "replay"
PAGE_ROWS = 2_000
TIMEOUT_S = 600

# $1 from, $2 until, $3 a document's id or NULL. The key is workspace/document.
COUNT = """
SELECT count(*)
FROM outbox
WHERE created_at >= $1 AND created_at < $2 AND ($3::text IS NULL OR split_part(key, '/', 2) = $3)
"""

ROWS = """
SELECT position, key, payload, traceparent
FROM outbox
WHERE created_at >= $1 AND created_at < $2 AND ($3::text IS NULL OR split_part(key, '/', 2) = $3)
ORDER BY position
"""


class Selection(msgspec.Struct):
    """Which events: written from one moment until before another, of one document or of all."""

    since: datetime
    until: datetime
    document: str | None


class Report(msgspec.Struct):
    """What was or would be published."""

    topic: str
    events: int
    published: bool


def command(  # noqa: PLR0913 - one parameter for each option
    *,
    since: Annotated[str, typer.Option("--from", help="ISO 8601; UTC unless it says.")],
    until: Annotated[str, typer.Option("--to", help="ISO 8601, not included.")],
    document: Annotated[str | None, typer.Option(help="Only this document's events.")] = None,
    topic: Annotated[str | None, typer.Option(help="By default <topic>.replay.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """Publish again what the outbox still holds: same ids, header `replay: true`."""
    settings = terminal.settings()
    selection = Selection(_moment(since, "--from"), _moment(until, "--to"), document)
    report = Report(topic or f"{settings.topic}.replay", 0, published=False)
    report.events = terminal.carry_out(count(settings, selection))
    if report.events and not dry_run:
        terminal.confirmed(f"Publish {report.events} events to {report.topic}?", yes=yes)
        work = replay(settings, selection, report, shown=not as_json)
        report.events = terminal.carry_out(work)
        report.published = True
    terminal.show(report, _print, as_json=as_json)


async def count(settings: Settings, selection: Selection) -> int:
    """Return how many events are meant."""
    connection = await connect(settings.session_database_url, "replay", timeout_s=TIMEOUT_S)
    try:
        total: int = await connection.fetchval(COUNT, *_arguments(selection))
    finally:
        await disconnect(connection)
    return total


async def replay(
    settings: Settings, selection: Selection, report: Report, *, shown: bool = False
) -> int:
    """Publish them, page by page; return how many there were."""
    connection = await connect(settings.session_database_url, "replay", timeout_s=TIMEOUT_S)
    try:
        relay = await registered(connection)
        async with await Courier.to(settings, report.topic, MARK, relay) as courier:
            with terminal.progress_bar("replay", report.events, shown=shown) as step:
                return await _send(connection, selection, courier, step)
    finally:
        await disconnect(connection)


async def _send(
    connection: asyncpg.Connection, selection: Selection, courier: Courier, step: terminal.Step
) -> int:
    sent = 0
    async with connection.transaction(readonly=True):
        cursor = await connection.cursor(ROWS, *_arguments(selection))
        while rows := await cursor.fetch(PAGE_ROWS):
            await courier.send(rows)
            sent += len(rows)
            step(len(rows))
    return sent


def _arguments(selection: Selection) -> tuple[datetime, datetime, str | None]:
    return selection.since, selection.until, selection.document


def _moment(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        terminal.fail(f"{option}: {text} is no moment in ISO 8601", terminal.USAGE)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _print(report: Report) -> None:
    done = "published to" if report.published else "would be published to"
    terminal.say(f"{report.events} events {done} {report.topic}")
