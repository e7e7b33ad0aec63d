"""`verify`: holds the topic against the outbox; missing, duplicated, out of order, altered.

The topic is kept for ever, so what is remembered of it is bounded by the outbox: its events by
their ids, and of each document that was read the last version. Records of other events, older
than the outbox or published while this runs, are held against their document's versions only.
"""

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import typer

from outbox_worker import reading, terminal, topics
from outbox_worker.records import partition_of
from outbox_worker.registration import RefusedError, Registration, registered
from outbox_worker.sessions import connect, disconnect
from outbox_worker.settings import Settings
from outbox_worker.window import Cursor

EXAMPLES = 10
PREFETCH = 5_000
TIMEOUT_S = 600
# A record has the relay's time, later than its row's but for the clocks: a day is far more than
# they can be apart unnoticed.
MARGIN = timedelta(days=1)
# Records of these are no events of the relay.
MARKS = {"replay", "snapshot"}

# What the cursor covers: $1 s0; $2 s1 and, of its window, what stands up to $3 (late rows) and
# $4 (new rows); $5 and $6 tell the two apart.
PUBLISHED = """
SELECT event_id::text AS id, position, key, payload, created_at
FROM outbox
WHERE pg_visible_in_snapshot(xid, $1::pg_snapshot)
    OR (pg_visible_in_snapshot(xid, $2::pg_snapshot)
        AND ((xid = ANY ($5::xid8[]) AND position <= $3) OR (xid >= $6::xid8 AND position <= $4)))
ORDER BY position
"""

Fault = Literal["missing", "duplicated", "out_of_order", "out_of_sequence", "altered"]


class Known(msgspec.Struct):
    """A published event of the outbox, and whether the topic has it."""

    position: int
    digest: bytes
    seen: bool = False


class Published(NamedTuple):
    """What the relay says it has published and the outbox still holds, and since when."""

    registration: Registration
    known: dict[str, Known]
    oldest: datetime


class _Identity(msgspec.Struct):
    """Of an event, only its id and its document's version."""

    id: str
    sequence: str = ""


class Report(msgspec.Struct):
    """What was compared, how many faults of each kind there are, and the first ids of each.

    `since`: the time from which the topic was read, None for its beginning. `not_compared`: the
    records of events that are not among those of the outbox: older, or published meanwhile.
    """

    since: datetime | None
    outbox_events: int
    topic_records: int = 0
    not_compared: int = 0
    faults: dict[Fault, int] = {}
    examples: dict[Fault, list[str]] = {}

    def add(self, fault: Fault, event: str) -> None:
        """Count a fault."""
        self.faults[fault] = self.faults.get(fault, 0) + 1
        if len(ids := self.examples.setdefault(fault, [])) < EXAMPLES:
            ids.append(event)


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
    registration, known, oldest = await _outbox(settings, shown=shown)
    since = None if whole else oldest - MARGIN
    checker = Checker(known, registration.partitions, since)
    client, topic = settings.kafka_client(), settings.topic
    async with topics.administration(client) as admin:
        partitions = await admin.partitions(topic)
    # The ends after the cursor: what it covers is before them.
    ends = await reading.end_offsets(client, topic, partitions)
    since_ms = None if since is None else int(since.timestamp() * 1000)
    starts = await reading.start_offsets(client, topic, ends, since_ms)
    total = sum(ends.values()) - sum(starts.values())
    with terminal.progress_bar("topic", total, shown=shown) as step:
        async for records in reading.between(client, topic, starts, ends):
            for record in records:
                checker.take(record)
            step(len(records))
    return checker.report()


async def _outbox(settings: Settings, *, shown: bool) -> Published:
    """Return the relay, and the events that the outbox still holds and it has published."""
    oldest = datetime.now(UTC)
    connection = await connect(settings.session_database_url, "verify", timeout_s=TIMEOUT_S)
    try:
        registration = await registered(connection)
        if registration is None:
            message = "this outbox has never been relayed: start the worker first"
            raise RefusedError(message)
        progress = await reading.progress(
            settings.kafka_client(), registration.progress_topic(settings.topic)
        )
        if progress is None:
            return Published(registration, {}, oldest)
        known: dict[str, Known] = {}
        with terminal.progress_bar("outbox", None, shown=shown) as step:
            async with connection.transaction(readonly=True):
                async for row in connection.cursor(
                    PUBLISHED, *_arguments(progress.cursor), prefetch=PREFETCH
                ):
                    known[row["id"]] = Known(
                        row["position"], _digest(row["key"].encode(), row["payload"])
                    )
                    oldest = min(oldest, row["created_at"])
                    step(1)
        return Published(registration, known, oldest)
    finally:
        await disconnect(connection)


def _arguments(cursor: Cursor) -> tuple[Any, ...]:
    s1 = cursor.s1 or cursor.s0
    return cursor.s0, s1, *cursor.after, cursor.s0.in_progress, cursor.s0.xmax


class Checker:
    """Takes the topic's records; those of each partition in order."""

    def __init__(self, known: dict[str, Known], partitions: int, since: datetime | None) -> None:
        self._known = known
        self._partitions = partitions
        self._positions: dict[bytes, int] = {}
        self._versions: dict[bytes, int] = {}
        self._report = Report(since, outbox_events=len(known))

    def take(self, record: Any) -> None:  # noqa: ANN401 - aiokafka has no types
        """Look at one record."""
        if MARKS & {name for name, _ in record.headers}:
            return
        self._report.topic_records += 1
        event, key = _identity(record.value), record.key or b""
        known = self._known.get(event.id)
        if known is not None and known.seen:
            self._report.add("duplicated", event.id)
            return
        self._follow(key, event)
        if known is None:
            self._report.not_compared += 1
        else:
            known.seen = True
            self._compare(record, key, event.id, known)

    def _follow(self, key: bytes, event: _Identity) -> None:
        """See that a document's version is one more than the last; the first may be any."""
        if event.sequence.isdecimal():
            version = int(event.sequence)
            if version != self._versions.get(key, version - 1) + 1:
                self._report.add("out_of_sequence", event.id)
            self._versions[key] = version

    def _compare(self, record: Any, key: bytes, event: str, known: Known) -> None:  # noqa: ANN401
        misplaced = record.partition != partition_of(key, self._partitions)
        if misplaced or known.digest != _digest(key, record.value):
            self._report.add("altered", event)
        last = self._positions.get(key, 0)
        if known.position < last:
            self._report.add("out_of_order", event)
        self._positions[key] = max(known.position, last)

    def report(self) -> Report:
        """Return the report, once every record was taken."""
        for event, known in self._known.items():
            if not known.seen:
                self._report.add("missing", event)
        return self._report


def _digest(key: bytes, value: bytes) -> bytes:
    return blake2b(b"%d %b%b" % (len(key), key, value), digest_size=16).digest()


def _identity(value: bytes) -> _Identity:
    """Return what tells an event; where a value is no event, something that no event has."""
    try:
        return msgspec.json.decode(value, type=_Identity)
    except msgspec.DecodeError:
        return _Identity(f"not an event: {blake2b(value, digest_size=8).hexdigest()}")


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
