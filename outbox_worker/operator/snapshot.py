"""`snapshot`: publishes one event for each link that is active now, for a new subscriber.

Each partition gets a marker before its events and one after them. A subscriber collects the events
between the two markers of one `snapshot-id`. At the end marker it replaces what it knows of that
partition's documents: a document without an event has no active link. A snapshot that was interrupted
has no end marker, so no subscriber uses it.

--resume goes on with an interrupted snapshot. It reads the remaining documents later, in another MVCC
snapshot of the database. Documents of different times do no harm, because a subscriber compares the
version of each document by itself. But all events of one document must be of one time: a link that was
removed in between would stay in the subscriber's collection. So pages have whole documents, and Ctrl-C
waits for the end of the page. After a kill or an error of Kafka it is unknown which documents are in the
topic: the snapshot cannot be resumed, and the next run begins another one.

A topic of snapshots holds one snapshot: an earlier one is deleted first. The event topic keeps its
events, and its relay can run meanwhile. Every event before the first marker is in the snapshot, because
the database's snapshot is taken after the marker is acknowledged. A subscriber recognises later events
by their document's version.
"""

from typing import Annotated

import asyncpg
import msgspec
import typer

from outbox_worker.kafka import reading
from outbox_worker.operator import terminal
from outbox_worker.operator.republisher import Republisher, Target, problem_of
from outbox_worker.operator.run import Run, resumable, running
from outbox_worker.operator.snapshot_events import SNAPSHOT, Identity
from outbox_worker.operator.snapshot_links import COUNT, LINKS, Document, document_of, pages
from outbox_worker.operator.snapshot_topic import delete_earlier, live_offsets
from outbox_worker.postgres.registration import RefusedError, Registration, required
from outbox_worker.postgres.sessions import session
from outbox_worker.postgres.task_progress import Recorder, Task
from outbox_worker.settings import Settings

TIMEOUT_S = 3_600

TRY_LOCK = """
SELECT pg_try_advisory_lock(hashtextextended('document-links snapshot into ' || $1, 0))
"""


class Place(msgspec.Struct, frozen=True):
    """Where an interrupted snapshot goes on: the links up to a document are in the topic, and no others.

    `ends` are the topic's offsets after the last record of the snapshot, `sent` the numbers of its events.
    """

    identity: Identity
    topic_id: str | None
    continue_from: dict[int, int]
    last: Document
    sent: dict[int, int]
    ends: dict[int, int]


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
    resume: terminal.Resume = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """Publish every active link once, in place of the snapshot that the topic holds.

    Every record has the headers `snapshot: true` and `snapshot-id`. Each partition begins with an event
    `snapshot.began` and ends with `snapshot.ended`. After Ctrl-C, --resume completes the snapshot.
    """
    settings = terminal.settings()
    target = f"{settings.topic}.snapshot" if topic is None else topic
    if target == f"{settings.topic}.replay":
        terminal.fail(f"--topic: {target} is for replays: name another one", terminal.USAGE)
    if problem := problem_of(target):
        terminal.fail(f"--topic: {target!r} {problem}", terminal.USAGE)
    work = Snapshot(settings, target)
    links = terminal.carry_out(work.count(resume=resume))
    if work.resumed:
        question = f"Publish the other {links - work.resumed.events} of {links} links to {target}?"
    else:
        question = _question(settings, target, links)
    terminal.confirmed(question, yes=yes)
    publish = work.publish(links, shown=not as_json)
    report = terminal.carry_out(publish, unfinished=work.unfinished)
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


class Snapshot:
    """One snapshot into a topic: a new one, or an interrupted one that goes on."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.resumed: Task | None = None
        self._settings = settings
        self._url = settings.session_database_url
        self._topic = topic
        self._identity = Identity.new()
        self._place: Place | None = None
        """None: no link is in the topic."""
        self._recorder: Recorder | None = None

    async def count(self, *, resume: bool) -> int:
        """Return the number of links, with those that an interrupted run has published.

        Raises:
            RefusedError: the relay has never started, or there is no run to resume.
        """
        async with session(self._url, SNAPSHOT, timeout_s=TIMEOUT_S) as connection:
            self._parameters = {
                "relay": (await required(connection)).name,
                "topic": self._topic,
            }
            if resume:
                self.resumed = await resumable(connection, SNAPSHOT, self._parameters)
                self._place = msgspec.convert(self.resumed.position, Place, str_keys=True)
                self._identity = self._place.identity
            last = self._place.last if self._place else Document()
            links: int = await connection.fetchval(COUNT, last.workspace, last.id)
        return links + (self.resumed.events if self.resumed else 0)

    async def publish(self, total: int, *, shown: bool) -> Report:
        """Publish the links page by page, between the markers."""
        async with session(self._url, SNAPSHOT, timeout_s=TIMEOUT_S) as connection:
            registration = await required(connection)
            if not await connection.fetchval(TRY_LOCK, self._topic):
                message = f"another snapshot into {self._topic} is being published: wait until it has ended"
                raise RefusedError(message)
            headers = self._identity.headers
            republisher = await Republisher.to(self._settings, self._topic, headers, registration)
            recorder = Recorder(self._url, SNAPSHOT, self._parameters, total, self.resumed)
            recorder.position = None  # as long as pages are published: a kill must leave no place
            async with republisher, running(recorder, SNAPSHOT, shown=shown) as run:
                self._recorder = recorder
                place = await self._begin(republisher, registration)
                await self._send(connection, republisher, place, run)
                await self._end(republisher)
            return Report(self._topic, self._identity.id, recorder.events, place.continue_from)

    def unfinished(self) -> str:
        """Say what an interruption leaves behind, and how to go on."""
        recorder = self._recorder
        if recorder is None:
            return "nothing was published"
        snapshot = f"snapshot {self._identity.id} in {self._topic} has no end"
        if recorder.position is None or not recorder.recorded:
            return f"{snapshot}: run the command again, and it begins another one"
        return (
            f"{snapshot}, but {recorder.events} of {recorder.total} links: run the command again with "
            "--resume to publish the others, or without it to begin another snapshot"
        )

    async def _begin(self, republisher: Republisher, registration: Registration) -> Place:
        """Return where the snapshot begins or goes on. A new one gets its first markers."""
        target = republisher.target
        if self._place is not None:
            await self._check_place(self._place, target)
            republisher.sent.update(self._place.sent)
            republisher.ends.update(self._place.ends)
            return self._place
        if self._topic != self._settings.topic:
            await delete_earlier(self._settings, self._topic, target.all_partitions)
        # The offsets are read first, so the database's snapshot has every event before them.
        offsets = await live_offsets(self._settings, registration)
        markers = {
            each: self._identity.began(each, self._settings.topic, offsets)
            for each in range(target.all_partitions)
        }
        await republisher.send_to_each(self._identity.id.encode(), markers)
        return Place(self._identity, target.topic_id, offsets, Document(), {}, {})

    async def _check_place(self, place: Place, target: Target) -> None:
        """Raise RefusedError unless the topic is as the interrupted run has left it."""
        assert self._recorder is not None  # noqa: S101 - set before
        ends = await reading.end_offsets(
            self._settings.kafka_client(), self._topic, target.all_partitions
        )
        is_live = self._topic == self._settings.topic
        same = place.topic_id == target.topic_id and (is_live or ends == place.ends)
        if not same or not self._recorder.recorded:
            message = (
                f"topic {self._topic} has changed since the snapshot was interrupted, or the database does "
                "not record that it goes on: leave out --resume, and it begins again"
            )
            raise RefusedError(message)

    async def _send(
        self, connection: asyncpg.Connection, republisher: Republisher, place: Place, run: Run
    ) -> None:
        """Publish the links after a place. If no page is in flight at an interruption, record the place."""
        last = place.last
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                cursor = await connection.cursor(LINKS, last.workspace, last.id)
                async for rows in pages(cursor):
                    run.check()
                    with run.publishing(len(rows)):
                        await republisher.send([self._identity.link(row) for row in rows])
                    last = document_of(rows[-1])
        except BaseException:
            if not run.in_flight:
                sent, ends = dict(republisher.sent), republisher.ends
                place = msgspec.structs.replace(place, last=last, sent=sent, ends=ends)
                run.recorder.position = msgspec.to_builtins(place, str_keys=True)
            raise

    async def _end(self, republisher: Republisher) -> None:
        """Send each partition its last marker."""
        markers = {
            each: self._identity.ended(each, republisher.sent[each])
            for each in range(republisher.target.all_partitions)
        }
        await republisher.send_to_each(self._identity.id.encode(), markers)


def _print(report: Report) -> None:
    terminal.say(
        f"{report.links} active links published to {report.topic}, snapshot {report.snapshot_id}"
    )
    offsets = " ".join(
        f"{partition}:{offset}" for partition, offset in report.continue_from.items()
    )
    terminal.say(f"the live topic continues at (partition:offset) {offsets or 'its beginning'}")
