"""The state of the relay, as `status --json` and /status.json show it, and what Postgres knows of it.

Fields may be added. The names and the meanings of the others are published, so they do not change.
Times are in seconds since 1970.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Literal

import asyncpg
import msgspec

from outbox_worker.kafka import metadata
from outbox_worker.postgres import pause, task_progress
from outbox_worker.postgres.registration import Registration, registered
from outbox_worker.postgres.sessions import LEADER, application_name
from outbox_worker.relay import ring
from outbox_worker.relay.leader import OF_THE_HOLDER
from outbox_worker.relay.retention import DAY_S, SLOTS, table_of
from outbox_worker.settings import Settings

System = Literal["postgres", "kafka"]

HOLDER = f"""
SELECT a.pid, a.client_addr::text AS address, a.backend_start::text AS since,
    extract(EPOCH FROM clock_timestamp() - a.state_change)::float8 AS silent_s,
    extract(EPOCH FROM a.backend_start)::float8 AS connected_at
{OF_THE_HOLDER}
"""  # noqa: S608 - both parts are constants of the worker

# Each worker has one session that holds or polls the leader's lock. $1 the name of
# these sessions, $2 the holder's backend.
STANDBYS = """
SELECT pid, client_addr::text AS address, extract(EPOCH FROM backend_start)::float8 AS connected_at
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = $1 AND pid <> $2
ORDER BY backend_start
"""

# The first row of a slot is its oldest.
FIRST_ROWS = " UNION ALL ".join(
    f"(SELECT '{table}' AS slot, created_at FROM ONLY {table} LIMIT 1)"  # noqa: S608 - constants
    for table in map(table_of, range(SLOTS))
)
RING = f"""
SELECT c.relname AS slot, pg_total_relation_size(c.oid)::bigint AS bytes,
    greatest(c.reltuples, 0)::bigint AS rows, f.created_at AS first
{ring.OF_THE_SLOTS}
LEFT JOIN ({FIRST_ROWS}) AS f ON f.slot = c.relname
ORDER BY c.relname
"""


class LockHolder(msgspec.Struct):
    """The session that holds the leader's lock."""

    backend: int
    address: str | None
    since: str
    silent_s: float | None  # None: track_activities is off in the session
    connected_at: float | None = None


class Standby(msgspec.Struct):
    """The session of a worker that polls the leader's lock; `address` is None over a Unix socket."""

    backend: int
    address: str | None
    connected_at: float | None


class SlotStatus(msgspec.Struct):
    """One day of the ring; `rows` is the planner's estimate. `state` None: unknown."""

    name: str
    bytes: int
    rows: int
    age_days: float | None
    state: ring.State | None = None


class PartitionStatus(msgspec.Struct):
    """A partition of the event topic: its leader (-1: none), and how many of its replicas are in sync.

    `offset` is the highest one that is known to be taken; None: unknown.
    """

    number: int
    leader: int
    replicas: int
    in_sync: int
    offset: int | None = None


class TopicStatus(msgspec.Struct):
    """The event topic, as brokers know it; `events_end` None: unknown."""

    name: str
    exists: bool
    brokers: int
    partitions: int = 0
    events_end: int | None = 0
    details: list[PartitionStatus] = []


class TaskStatus(msgspec.Struct):
    """A replay, snapshot or rebase that runs now: what it has done, and all that it has to do.

    `total` None: unknown.
    """

    kind: str
    started_at: float
    updated_at: float
    events: int
    total: int | None


class PauseStatus(msgspec.Struct):
    """The pause of the relay: since when, and by which user and host."""

    since: float
    by: str


class Status(msgspec.Struct):
    """The values that could be read; None: unknown. `problems` has the errors of Postgres and Kafka.

    `configured_delivery` comes from this process' environment; the leader's may be another one.
    """

    configured_delivery: str
    problems: dict[System, str] = {}
    slots: list[SlotStatus] | None = None
    topic: TopicStatus | None = None
    relay: str | None = None
    leader: LockHolder | None = None
    standbys: list[Standby] | None = None
    tasks: list[TaskStatus] | None = None
    paused: PauseStatus | None = None
    lag_events: int | None = None
    lag_seconds: float | None = None
    last_batch_age_s: float | None = None
    published: int | None = None
    published_at: float | None = None
    rate: float | None = None
    compression: str | None = None
    """The codec of a worker with this process' environment. `compression_reason` tells where it is set."""
    compression_reason: str | None = None
    worker: msgspec.Raw | None = None
    """What only a worker's process knows; None: no worker answers at the configured address."""


async def add_database(
    status: Status, connection: asyncpg.Connection, settings: Settings
) -> Registration | None:
    """Add what Postgres knows; return the relay's registration, None before its first start."""
    status.slots = await _ring(connection)
    status.tasks = await _tasks(connection)
    status.paused = await _paused(connection)
    registration = await registered(connection)
    status.compression, status.compression_reason = settings.compression_of(registration)
    if registration is not None:
        status.relay = registration.name
        holder = await connection.fetchrow(HOLDER, registration.name)
        status.leader = None if holder is None else LockHolder(*holder)
        others = (application_name(LEADER), holder["pid"] if holder else 0)
        standbys = await connection.fetch(STANDBYS, *others)
        status.standbys = [Standby(*row) for row in standbys]
    return registration


async def _ring(connection: asyncpg.Connection) -> list[SlotStatus]:
    days = []
    for name, size, rows, first in await connection.fetch(RING):
        age = None if first is None else round((time.time() - first.timestamp()) / DAY_S, 1)
        days.append(SlotStatus(name, size, rows, age))
    return days


def with_states(slots: Sequence[SlotStatus], days: Iterable[ring.Day]) -> list[SlotStatus]:
    """Return the slots with their states; unknown for slots without a day."""
    states = {day.slot: day.state for day in days}
    return [
        msgspec.structs.replace(slot, state=states.get(number)) for number, slot in enumerate(slots)
    ]


async def _paused(connection: asyncpg.Connection) -> PauseStatus | None:
    """Return the pause; None: the relay is not paused, or the schema or the grants are older."""
    found = await pause.read(connection) if await pause.is_readable(connection) else None
    return None if found is None else PauseStatus(found.since, found.by)


async def _tasks(connection: asyncpg.Connection) -> list[TaskStatus] | None:
    try:
        running = await task_progress.running(connection)
    except task_progress.NOT_PERMITTED:  # the schema is older than the table, or the grants are
        return None
    return [
        TaskStatus(
            task.kind,
            task.started_at.timestamp(),
            task.updated_at.timestamp(),
            task.events,
            task.total,
        )
        for task in running
    ]


def partitions(described: metadata.Topic) -> list[PartitionStatus]:
    """Return the partitions of a topic, in order."""
    return [PartitionStatus(*each) for each in sorted(described.partitions)]
