"""`status`: which session leads, the relay's lag, the slots of the ring, and the event topic."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Annotated, Literal, TypeVar

import asyncpg
import msgspec
import typer
from aiokafka.errors import KafkaError
from rich.markup import escape
from rich.table import Table

from outbox_worker.kafka import administration, reading
from outbox_worker.logs import reason
from outbox_worker.operator import terminal
from outbox_worker.operator.published import last_progress
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import (
    RefusedError,
    Registration,
    check_session,
    registered,
)
from outbox_worker.postgres.sessions import ERRORS, configure, connect, disconnect
from outbox_worker.postgres.window import PLANNER_SETTINGS
from outbox_worker.relay import lag
from outbox_worker.relay.leader import OF_THE_HOLDER
from outbox_worker.relay.retention import DAY_S, first_created_at
from outbox_worker.settings import Settings

WATCH_EVERY_S = 2
TIMEOUT_S = 30
LEAST_S = 0.001  # the clock may be set back between two reports

T = TypeVar("T")
System = Literal["postgres", "kafka"]

HOLDER = f"""
SELECT a.pid, a.client_addr::text AS address, a.backend_start::text AS since,
    extract(EPOCH FROM clock_timestamp() - a.state_change)::float8 AS silent_s
{OF_THE_HOLDER}
"""  # noqa: S608 - both parts are constants of the worker

SLOTS = """
SELECT c.relname AS slot, pg_total_relation_size(c.oid)::bigint AS bytes,
    greatest(c.reltuples, 0)::bigint AS rows
FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'outbox'::regclass
ORDER BY c.relname
"""


class LockHolder(msgspec.Struct):
    """The session that holds the leader's lock."""

    backend: int
    address: str | None
    since: str
    silent_s: float | None  # None: track_activities is off in the session


class SlotStatus(msgspec.Struct):
    """One day of the ring; `rows` is the planner's estimate."""

    name: str
    bytes: int
    rows: int
    age_days: float | None


class TopicStatus(msgspec.Struct):
    """The event topic, as brokers know it."""

    name: str
    exists: bool
    brokers: int
    partitions: int = 0
    events_end: int = 0


class Status(msgspec.Struct):
    """The values that could be read; None: unknown. `problems` has the errors of Postgres and Kafka.

    `configured_delivery` comes from this command's environment; the leader's may be another one.
    """

    configured_delivery: str
    problems: dict[System, str] = {}
    slots: list[SlotStatus] | None = None
    topic: TopicStatus | None = None
    relay: str | None = None
    leader: LockHolder | None = None
    lag_events: int | None = None
    lag_seconds: float | None = None
    last_batch_age_s: float | None = None
    published: int | None = None
    published_at: float | None = None
    rate: float | None = None


def command(
    *,
    as_json: terminal.Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Report again every 2 s.")] = False,
) -> None:
    """Show which session leads, how far behind the relay is, the slots of the ring, and the topic."""
    settings = terminal.settings()
    before: Status | None = None
    while True:
        status = terminal.carry_out(collect(settings, before))
        if watch and not as_json:
            terminal.console.clear()
        terminal.show(status, _print, as_json=as_json)
        if not watch and status.problems:
            raise typer.Exit(terminal.FAILED)
        if not watch:
            return
        before = status
        asyncio.run(asyncio.sleep(WATCH_EVERY_S))


async def collect(settings: Settings, before: Status | None = None) -> Status:
    """Read the state of Postgres and Kafka; `before` is an earlier status, for the rate since then."""
    status = Status(configured_delivery=settings.delivery)
    await _tried(status, "kafka", _add_topic(status, settings))
    connection = await _tried(status, "postgres", _connect(settings))
    if connection is not None:
        try:
            await _add_relay(status, settings, connection, before)
        finally:
            await disconnect(connection)
    return status


async def _tried(status: Status, system: System, work: Awaitable[T]) -> T | None:
    """Return the result of the work; if it fails, note the error in the status and return None."""
    try:
        return await work
    except (*ERRORS, KafkaError) as error:
        status.problems[system] = reason(error)
        return None


async def _connect(settings: Settings) -> asyncpg.Connection:
    url = settings.session_database_url
    connection = await connect(url, "status", timeout_s=TIMEOUT_S)
    try:
        await check_session(connection, url)  # a pooler would lend this session to the service
        await configure(connection, **PLANNER_SETTINGS)
    except BaseException:
        await disconnect(connection)
        raise
    return connection


async def _add_relay(
    status: Status, settings: Settings, connection: asyncpg.Connection, before: Status | None
) -> None:
    registration = await _tried(status, "postgres", _add_database(status, connection))
    if registration is None or "kafka" in status.problems:
        return
    try:
        progress = await _tried(status, "kafka", last_progress(settings, connection, registration))
    except RefusedError as refusal:
        status.problems["kafka"] = str(refusal)
    else:
        if progress is not None:
            await _tried(status, "postgres", _add_progress(status, connection, progress, before))


async def _add_database(status: Status, connection: asyncpg.Connection) -> Registration | None:
    status.slots = await _slots(connection)
    registration = await registered(connection)
    if registration is not None:
        status.relay = registration.name
        status.leader = await _leader(connection, registration.name)
    return registration


async def _add_progress(
    status: Status, connection: asyncpg.Connection, progress: Progress, before: Status | None
) -> None:
    status.published, status.published_at = progress.events, time.time()
    if before is not None and before.published is not None and before.published_at is not None:
        elapsed_s = status.published_at - before.published_at
        status.rate = round((progress.events - before.published) / max(elapsed_s, LEAST_S), 1)
    due = await lag.due(connection, progress.cursor)
    status.lag_events = due.events
    status.lag_seconds = round(due.seconds, 3)
    status.last_batch_age_s = round(time.time() - progress.at, 1)


async def _leader(connection: asyncpg.Connection, relay: str) -> LockHolder | None:
    row = await connection.fetchrow(HOLDER, relay)
    return None if row is None else LockHolder(*row)


async def _slots(connection: asyncpg.Connection) -> list[SlotStatus]:
    slots = []
    for row in await connection.fetch(SLOTS):
        first = await first_created_at(connection, row["slot"])
        age = None if first is None else round((time.time() - first.timestamp()) / DAY_S, 1)
        slots.append(SlotStatus(row["slot"], row["bytes"], row["rows"], age))
    return slots


async def _add_topic(status: Status, settings: Settings) -> None:
    async with administration.connect(settings.kafka_client()) as admin:
        topic = TopicStatus(
            settings.topic, await admin.exists(settings.topic), await admin.brokers()
        )
        if topic.exists:
            topic.partitions = await admin.partitions(settings.topic)
    if topic.exists:
        client = settings.kafka_client()
        ends = await reading.end_offsets(client, settings.topic, topic.partitions)
        topic.events_end = sum(ends.values())
    status.topic = topic


def _print(status: Status) -> None:
    absent = "unknown" if "postgres" in status.problems else "none"
    # Without the relay's progress, "none" would look like no lag.
    facts = {
        "relay": status.relay or absent,
        "leader": _holder(status.leader) or absent,
        "lag": _text(status.lag_events, "events", status.lag_seconds, "s") or "unknown",
        "last batch": _text(status.last_batch_age_s, "s ago") or "unknown",
        "published": _text(status.published, "events", status.rate, "/s") or "unknown",
        "topic": _describe(status.topic) or "unknown",
        "delivery": f"{status.configured_delivery}, as configured here",
    }
    table = Table(show_header=False, box=None)
    for name, fact in facts.items():
        table.add_row(name, fact)
    for system, problem in status.problems.items():
        table.add_row(system, f"[red]cannot be read:[/] {escape(problem)}")
    terminal.console.print(table)
    ring = Table("slot", "MiB", "rows", "days old", box=None)
    for slot in status.slots or []:
        age = "" if slot.age_days is None else f"{slot.age_days}"
        ring.add_row(slot.name, f"{slot.bytes / 2**20:.1f}", str(slot.rows), age)
    terminal.console.print(ring)


def _text(*parts: object) -> str:
    """Return numbers with their units, without the unknown ones."""
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return ", ".join(f"{number} {unit}" for number, unit in pairs if number is not None)


def _holder(leader: LockHolder | None) -> str | None:
    if leader is None:
        return None
    return f"backend {leader.backend}, {leader.address}, since {leader.since}"


def _describe(topic: TopicStatus | None) -> str | None:
    if topic is None:
        return None
    if not topic.exists:
        return f"{topic.name}: does not exist ({topic.brokers} brokers)"
    return f"{topic.name}: {topic.partitions} partitions, {topic.brokers} brokers"
