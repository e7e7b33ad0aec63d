"""`verify`: holds the topic against the outbox; missing, duplicated, out of order, altered."""

from collections import Counter
from hashlib import blake2b
from typing import Any, Literal

import msgspec
import typer

from outbox_worker import terminal, topics
from outbox_worker.progress import Progress
from outbox_worker.records import partition_of
from outbox_worker.registration import RefusedError, Registration, registered
from outbox_worker.sessions import connect, disconnect
from outbox_worker.settings import Settings
from outbox_worker.window import Cursor

EXAMPLES = 10
PREFETCH = 5_000
TIMEOUT_S = 600
# Records of these are no events of the relay.
MARKS = {"replay", "snapshot"}

# What the cursor covers: $1 s0; $2 s1 and, of its window, what stands up to $3 (late rows) and
# $4 (new rows); $5 and $6 tell the two apart.
PUBLISHED = """
SELECT event_id::text AS id, position, key, payload
FROM outbox
WHERE pg_visible_in_snapshot(xid, $1::pg_snapshot)
    OR (pg_visible_in_snapshot(xid, $2::pg_snapshot)
        AND ((xid = ANY ($5::xid8[]) AND position <= $3) OR (xid >= $6::xid8 AND position <= $4)))
ORDER BY position
"""

Fault = Literal["missing", "duplicated", "out_of_order", "altered"]


class Known(msgspec.Struct):
    """A published event of the outbox, and whether the topic has it."""

    position: int
    digest: bytes
    seen: bool = False


class _Identity(msgspec.Struct):
    """Of an event, only its id."""

    id: str


class Report(msgspec.Struct):
    """What was compared, how many faults of each kind there are, and the first ids of each."""

    outbox_events: int = 0
    topic_records: int = 0
    older_than_the_outbox: int = 0
    faults: dict[Fault, int] = {}
    examples: dict[Fault, list[str]] = {}

    def add(self, fault: Fault, event: str) -> None:
        """Count a fault."""
        self.faults[fault] = self.faults.get(fault, 0) + 1
        if len(ids := self.examples.setdefault(fault, [])) < EXAMPLES:
            ids.append(event)


def command(*, as_json: terminal.Json = False) -> None:
    """Report the events that the topic is missing, or has twice, out of order or altered."""
    settings = terminal.settings()
    report = terminal.carry_out(verify(settings, shown=not as_json))
    terminal.show(report, _print, as_json=as_json)
    if report.faults:
        raise typer.Exit(terminal.FAILED)


async def verify(settings: Settings, *, shown: bool = False) -> Report:
    """Compare what the relay says it has published with what the topic holds."""
    registration, known = await _outbox(settings, shown=shown)
    checker = Checker(known, registration.partitions)
    async with topics.administration(settings.kafka_client()) as admin:
        partitions = await admin.partitions(settings.topic)
    ends = await topics.end_offsets(settings.kafka_client(), settings.topic, partitions)
    with terminal.progress_bar("topic", sum(ends.values()), shown=shown) as step:
        async for records in topics.everything(settings.kafka_client(), settings.topic, ends):
            for record in records:
                checker.take(record)
            step(len(records))
    return checker.report()


async def _outbox(settings: Settings, *, shown: bool) -> tuple[Registration, dict[str, Known]]:
    """Return the relay, and the events that the outbox still holds and it has published."""
    connection = await connect(settings.session_database_url, "verify", timeout_s=TIMEOUT_S)
    try:
        registration = await registered(connection)
        if registration is None:
            message = "this outbox has never been relayed"
            raise RefusedError(message)
        value = await topics.last_value(
            settings.kafka_client(), registration.progress_topic(settings.topic)
        )
        if value is None:
            return registration, {}
        cursor = msgspec.json.decode(value, type=Progress).cursor
        known: dict[str, Known] = {}
        with terminal.progress_bar("outbox", None, shown=shown) as step:
            async with connection.transaction(readonly=True):
                async for row in connection.cursor(
                    PUBLISHED, *_arguments(cursor), prefetch=PREFETCH
                ):
                    known[row["id"]] = Known(
                        row["position"], _digest(row["key"].encode(), row["payload"])
                    )
                    step(1)
        return registration, known
    finally:
        await disconnect(connection)


def _arguments(cursor: Cursor) -> tuple[Any, ...]:
    s1 = cursor.s1 or cursor.s0
    return cursor.s0, s1, *cursor.after, cursor.s0.in_progress, cursor.s0.xmax


class Checker:
    """Takes the topic's records partition by partition, in order."""

    def __init__(self, known: dict[str, Known], partitions: int) -> None:
        self._known = known
        self._partitions = partitions
        self._ids: Counter[str] = Counter()
        self._last: dict[bytes, int] = {}
        self._report = Report(outbox_events=len(known))

    def take(self, record: Any) -> None:  # noqa: ANN401 - aiokafka has no types
        """Look at one record."""
        if MARKS & {name for name, _ in record.headers}:
            return
        self._report.topic_records += 1
        event = _id(record.value)
        self._ids[event] += 1
        if self._ids[event] > 1:
            self._report.add("duplicated", event)
            return
        known = self._known.get(event)
        if known is None:
            self._report.older_than_the_outbox += 1
            return
        known.seen = True
        key = record.key or b""
        misplaced = record.partition != partition_of(key, self._partitions)
        if misplaced or known.digest != _digest(key, record.value):
            self._report.add("altered", event)
        last = self._last.get(key, 0)
        if known.position < last:
            self._report.add("out_of_order", event)
        self._last[key] = max(known.position, last)

    def report(self) -> Report:
        """Return the report, once every record was taken."""
        for event, known in self._known.items():
            if not known.seen:
                self._report.add("missing", event)
        return self._report


def _digest(key: bytes, value: bytes) -> bytes:
    return blake2b(b"%d %b%b" % (len(key), key, value), digest_size=16).digest()


def _id(value: bytes) -> str:
    """Return an event's id; where a value is no event, something that no event has."""
    try:
        return msgspec.json.decode(value, type=_Identity).id
    except msgspec.DecodeError:
        return f"not an event: {blake2b(value, digest_size=8).hexdigest()}"


def _print(report: Report) -> None:
    terminal.say(
        f"{report.outbox_events} published events in the outbox, "
        f"{report.topic_records} records in the topic "
        f"({report.older_than_the_outbox} older than the outbox)"
    )
    for fault, count in report.faults.items():
        examples = ", ".join(report.examples[fault])
        terminal.say(f"{fault.replace('_', ' ')}: {count} ({examples})")
    if not report.faults:
        terminal.say("nothing missing, duplicated, out of order or altered")
