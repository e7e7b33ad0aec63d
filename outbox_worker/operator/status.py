"""`status`: which session leads, the relay's lag, the slots of the ring, and the event topic."""

import asyncio
import time
from collections.abc import Awaitable
from http.client import HTTPConnection, HTTPException
from typing import Annotated, TypeVar

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
from outbox_worker.operator.state import (
    LockHolder,
    Standby,
    Status,
    System,
    TopicStatus,
    add_database,
    partitions,
    with_states,
)
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import RefusedError, check_session
from outbox_worker.postgres.sessions import ERRORS, configure, connect, disconnect
from outbox_worker.postgres.window import PLANNER_SETTINGS
from outbox_worker.relay import lag, ring
from outbox_worker.settings import Settings

WATCH_EVERY_S = 2
TIMEOUT_S = 30
WORKER_TIMEOUT_S = 2
LEAST_S = 0.001  # the clock may be set back between two reports

T = TypeVar("T")


class Answer(msgspec.Struct):
    """The parts of a worker's /status.json that are read here."""

    relay: str | None
    worker: msgspec.Raw


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
    status.worker = await asyncio.to_thread(_worker, settings, status.relay)
    return status


def _worker(settings: Settings, relay: str | None) -> msgspec.Raw | None:
    """Return the part of a worker's /status.json that only its process knows.

    None: no worker of this relay answers at the configured address.
    """
    connection = HTTPConnection(settings.http_host, settings.http_port, timeout=WORKER_TIMEOUT_S)
    try:
        connection.request("GET", "/status.json")
        found = msgspec.json.decode(connection.getresponse().read(), type=Answer)
    except (OSError, HTTPException, msgspec.DecodeError):
        return None
    finally:
        connection.close()
    return found.worker if found.relay in {None, relay} else None


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
    registration = await _tried(status, "postgres", add_database(status, connection, settings))
    if registration is None or "kafka" in status.problems:
        return
    try:
        progress = await _tried(status, "kafka", last_progress(settings, connection, registration))
    except RefusedError as refusal:
        status.problems["kafka"] = str(refusal)
    else:
        if progress is not None:
            await _tried(status, "postgres", _add_progress(status, connection, progress, before))


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
    oldest_s = due.seconds if due.events else None
    days = await ring.read(connection, oldest_s=oldest_s, clearing=None)
    status.slots = status.slots and with_states(status.slots, days)


async def _add_topic(status: Status, settings: Settings) -> None:
    async with administration.connect(settings.kafka_client()) as admin:
        topic = TopicStatus(
            settings.topic, await admin.exists(settings.topic), await admin.brokers()
        )
        if topic.exists:
            topic.details = partitions(await admin.described(settings.topic))
            topic.partitions = len(topic.details)
    if topic.exists:
        client = settings.kafka_client()
        ends = await reading.end_offsets(client, settings.topic, topic.partitions)
        topic.events_end = sum(ends.values())
        for partition in topic.details:
            partition.offset = ends[partition.number] - 1
    status.topic = topic


def _print(status: Status) -> None:
    absent = "unknown" if "postgres" in status.problems else "none"
    # Without the relay's progress, "none" would look like no lag.
    facts = {
        "relay": status.relay or absent,
        "leader": _holder(status.leader) or absent,
        "standbys": _standbys(status.standbys) or absent,
        "lag": _text(status.lag_events, "events", status.lag_seconds, "s") or "unknown",
        "last batch": _text(status.last_batch_age_s, "s ago") or "unknown",
        "published": _text(status.published, "events", status.rate, "/s") or "unknown",
        "topic": _describe(status.topic) or "unknown",
        "delivery": f"{status.configured_delivery}, as configured here",
        "compression": _compression(status) or "unknown",
    }
    table = Table(show_header=False, box=None)
    for name, fact in facts.items():
        table.add_row(name, fact)
    if status.paused is not None:
        paused = f"since {terminal.utc(status.paused.since)} by {status.paused.by}"
        table.add_row("paused", f"[yellow]{escape(paused)}[/]")
    for task in status.tasks or []:
        of = "" if task.total is None else f" of {task.total}"
        table.add_row(task.kind, f"{task.events}{of} events")
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


def _compression(status: Status) -> str | None:
    return status.compression and f"{status.compression} ({status.compression_reason})"


def _holder(leader: LockHolder | None) -> str | None:
    if leader is None:
        return None
    return f"backend {leader.backend}, {leader.address}, since {leader.since}"


def _standbys(standbys: list[Standby] | None) -> str:
    return ", ".join(f"backend {each.backend}, {each.address}" for each in standbys or [])


def _describe(topic: TopicStatus | None) -> str | None:
    if topic is None:
        return None
    if not topic.exists:
        return f"{topic.name}: does not exist ({topic.brokers} brokers)"
    return f"{topic.name}: {topic.partitions} partitions, {topic.brokers} brokers"
