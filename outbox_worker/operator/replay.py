"""`replay`: publishes events of the outbox again, with the same ids and a header."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
import msgspec
import typer

from outbox_worker.operator import terminal
from outbox_worker.operator.republisher import Republisher, problem_of
from outbox_worker.operator.run import Run, interrupted, resumable, running
from outbox_worker.postgres.registration import RefusedError, registered
from outbox_worker.postgres.sessions import session
from outbox_worker.postgres.task_progress import Recorder, Task
from outbox_worker.settings import Settings

HEADERS = [("replay", b"true")]
DOCUMENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
PAGE_ROWS = 2_000
TIMEOUT_S = 600

# $1 from, $2 until, $3 the id of a document or NULL. A key is workspace/document. $4 and $5 are what
# interrupted runs have published: the rows up to a position that were visible in their snapshots. A row below
# that position may have been committed later.
SELECTED = """
FROM outbox AS o
WHERE created_at >= $1 AND created_at < $2 AND ($3::text IS NULL OR split_part(key, '/', 2) = $3)
    AND NOT EXISTS (
        SELECT FROM unnest($4::bigint[], $5::text[]) AS p (position, snapshot)
        WHERE o.position <= p.position AND pg_visible_in_snapshot(o.xid, p.snapshot::pg_snapshot)
    )
"""

COUNT = f"""
SELECT count(*)
{SELECTED}
"""

OLDEST = """
SELECT min(created_at)
FROM outbox
"""

ROWS = f"""
SELECT position, key, payload, traceparent
{SELECTED}
ORDER BY position
"""

SNAPSHOT = """
SELECT pg_current_snapshot()::text
"""


class Selection(msgspec.Struct):
    """The events to publish: `since` is included, `until` is not; `document` None: of all documents."""

    since: datetime
    until: datetime
    document: str | None


class Published(msgspec.Struct, frozen=True):
    """The events that one run has published: up to a position, of those visible in a snapshot."""

    position: int
    snapshot: str


class Place(msgspec.Struct, frozen=True):
    """Where an interrupted replay goes on. `topic_id` is that of the target, None: brokers do not tell it."""

    topic_id: str | None = None
    published: list[Published] = []

    def after(self, position: int, snapshot: str) -> "Place":
        """Return the place after a page of a run that reads a newer snapshot."""
        others = [each for each in self.published if each.position > position]
        return Place(self.topic_id, [*others, Published(position, snapshot)])


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
    resume: terminal.Resume = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """Publish events of the outbox again, with the same ids and the header `replay: true`.

    An interrupted replay begins again, or with --resume goes on. After a kill, --resume repeats the
    events of the last seconds.
    """
    settings = terminal.settings()
    selection = Selection(_time(since, "--from"), _time(until, "--to"), document)
    report = Report(f"{settings.topic}.replay" if topic is None else topic, 0, published=False)
    if problem := _problem(settings, selection, report.topic):
        terminal.fail(problem, terminal.USAGE)
    work = Replay(settings, selection, report.topic)
    report.events, report.oldest_event = terminal.carry_out(work.count(resume=resume))
    if (report.events or resume) and not dry_run:
        if work.earlier:
            terminal.note(
                f"an earlier run has published {work.earlier} events: --resume goes on there"
            )
        terminal.confirmed(f"Publish {report.events} events to {report.topic}?", yes=yes)
        publish = work.publish(report.events, shown=not as_json)
        report.events = terminal.carry_out(publish, unfinished=work.unfinished)
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


class Replay:
    """One replay: the events that are selected, and the interrupted run that goes on."""

    def __init__(self, settings: Settings, selection: Selection, topic: str) -> None:
        self.earlier = 0
        """The events that an interrupted run has published and that this run repeats."""
        self._settings = settings
        self._url = settings.session_database_url
        self._selection = selection
        self._topic = topic
        self._resumed: Task | None = None
        self._place = Place()
        self._recorder: Recorder | None = None

    async def count(self, *, resume: bool) -> tuple[int, datetime | None]:
        """Return the number of events to publish; if it is 0, also the time of the oldest event of all.

        Raises:
            RefusedError: there is no run to resume.
        """
        async with session(self._url, "replay", timeout_s=TIMEOUT_S) as connection:
            await self._find_earlier(connection, resume=resume)
            total: int = await connection.fetchval(COUNT, *self._arguments())
            oldest = None if total else await connection.fetchval(OLDEST)
        return total, oldest

    async def publish(self, total: int, *, shown: bool) -> int:
        """Publish the selected events page by page; return their number."""
        async with session(self._url, "replay", timeout_s=TIMEOUT_S) as connection:
            relay = await registered(connection)
            republisher = await Republisher.to(self._settings, self._topic, HEADERS, relay)
            topic_id = republisher.target.topic_id
            if self._resumed and topic_id != self._place.topic_id:
                message = f"topic {self._topic} was made again: leave out --resume"
                raise RefusedError(message)
            self._place = Place(topic_id, self._place.published)
            done = self._resumed.events if self._resumed else 0
            recorder = Recorder(
                self._url, "replay", self._parameters(), done + total, self._resumed
            )
            recorder.position = msgspec.to_builtins(self._place)
            async with republisher, running(recorder, "replay", shown=shown) as run:
                self._recorder = recorder
                return await self._send(connection, republisher, run) - done

    def unfinished(self) -> str:
        """Say what an interruption leaves behind, and how to go on."""
        recorder = self._recorder
        if recorder is None:
            return "nothing was published"
        if not recorder.recorded:
            return f"{self._topic} has a part of the events: replay them again"
        return (
            f"{self._topic} has {recorder.events} of {recorder.total} events: run the command again with "
            "--resume to publish the others, or without it to publish all of them again"
        )

    async def _find_earlier(self, connection: asyncpg.Connection, *, resume: bool) -> None:
        relay = await registered(connection)
        self._relay = relay.name if relay else None
        if resume:
            self._resumed = await resumable(connection, "replay", self._parameters())
            self._place = msgspec.convert(self._resumed.position, Place)
        elif task := await interrupted(connection, "replay", self._parameters()):
            self.earlier = task.events

    async def _send(
        self, connection: asyncpg.Connection, republisher: Republisher, run: Run
    ) -> int:
        # The statements of this transaction see one snapshot.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await connection.fetchval(SNAPSHOT)
            cursor = await connection.cursor(ROWS, *self._arguments())
            while rows := await cursor.fetch(PAGE_ROWS):
                run.check()
                place = self._place.after(rows[-1]["position"], snapshot)
                with run.publishing(len(rows), msgspec.to_builtins(place)):
                    await republisher.send(rows)
        return run.recorder.events

    def _arguments(self) -> tuple[Any, ...]:
        published = self._place.published
        return (
            *msgspec.structs.astuple(self._selection),
            [each.position for each in published],
            [each.snapshot for each in published],
        )

    def _parameters(self) -> dict[str, Any]:
        """Return what a resumed run has to have in common: a rebased outbox has other xids."""
        selection = msgspec.to_builtins(self._selection)
        return {"relay": self._relay, "topic": self._topic, **selection}


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
    if report.events or report.published:
        done = "published to" if report.published else "would be published to"
        terminal.say(f"{report.events} events {done} {report.topic}")
    elif report.oldest_event:
        terminal.say(
            "no events: the outbox has none in this selection; its oldest event is of "
            f"{report.oldest_event.isoformat()}"
        )
    else:
        terminal.say("no events: the outbox is empty")
