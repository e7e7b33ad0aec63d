"""The progress of a replay, snapshot or rebase: a row of outbox_tasks for each run, which --resume reads.

The row is written over a session of its own, because the command's session reads or writes in one long
transaction. A run goes on without a record if the schema is older than the table, if the role lacks the
rights, or if the database does not answer; this is logged once.
"""

import asyncio
import signal
import time
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

import asyncpg
import msgspec

from outbox_worker.logs import first_line, get_logger, reason
from outbox_worker.postgres.registration import RefusedError
from outbox_worker.postgres.sessions import ERRORS, Connection, connect, disconnect, has_privilege
from outbox_worker.tasks import pause

RECORD_INTERVAL_S = 1.0
"""The time between two records. After a kill, a resumed replay repeats at most the events of this time."""
UNCHANGED_INTERVAL_S = 5.0
"""The time between two records of a run that makes no progress, for example while brokers are unreachable."""
ENDED_AFTER_S = 30
"""A run that has recorded nothing for this time counts as ended: it was killed, or has no connection."""
TIMEOUT_S = 5
"""The longest wait for the answer to a statement."""
KEPT = 100
"""Runs whose rows are kept for operators; only the newest of each command can be resumed."""

NOT_PERMITTED = (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError)
"""The errors of an older schema, and of a role whose rights are older than the table."""

Kind = Literal["replay", "snapshot", "rebase"]
Position = dict[str, Any]

log = get_logger(__name__)

COLUMNS = """
SELECT id, kind, parameters::text, started_at, updated_at, events, total, position::text, finished_at, error
FROM outbox_tasks
"""

NEWEST = f"""
{COLUMNS}
WHERE kind = $1 AND parameters = $2::text::jsonb
ORDER BY id DESC
LIMIT 1
"""

RUNNING = f"""
{COLUMNS}
WHERE finished_at IS NULL AND error IS NULL
    AND updated_at > clock_timestamp() - make_interval(secs => {ENDED_AFTER_S})
ORDER BY id
"""

BEGIN = """
INSERT INTO outbox_tasks (kind, parameters)
VALUES ($1, $2::text::jsonb)
RETURNING id
"""

PRUNE = """
DELETE FROM outbox_tasks
WHERE id <= $1
"""

# Held by the session that writes the row, so that two commands never resume one run.
LOCK = """
SELECT pg_try_advisory_lock(hashtextextended('document-links task ' || $1, 0))
"""

UPDATE = """
UPDATE outbox_tasks
SET updated_at = clock_timestamp(), events = $2, total = $3, position = $4::text::jsonb,
    finished_at = CASE WHEN $5 THEN clock_timestamp() END, error = $6
WHERE id = $1
"""


class InterruptedByOperator(Exception):  # noqa: N818 - not an error
    """A signal, such as that of Ctrl-C, has ended the run."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")


class Task(msgspec.Struct, frozen=True):
    """A run as it was recorded last. `total` None: unknown; `position` None: it cannot be resumed."""

    id: int
    kind: Kind
    parameters: dict[str, Any]
    started_at: datetime
    updated_at: datetime
    events: int
    total: int | None
    position: Position | None
    finished_at: datetime | None
    error: str | None


async def newest(
    connection: asyncpg.Connection, kind: Kind, parameters: dict[str, Any]
) -> Task | None:
    """Return the newest run of a command with these parameters, None if there is none.

    Raises:
        NOT_PERMITTED: the schema is older than the table, or the role may not read it.
    """
    row = await connection.fetchrow(NEWEST, kind, _json(parameters))
    return None if row is None else _task(row)


async def running(connection: asyncpg.Connection) -> list[Task]:
    """Return the runs that are going on now, oldest first.

    Raises:
        NOT_PERMITTED: the schema is older than the table, or the role may not read it.
    """
    return [_task(row) for row in await connection.fetch(RUNNING)]


async def running_if_readable(connection: asyncpg.Connection) -> list[Task]:
    """Return the runs that are going on now; none if the schema or the grants are older than the table."""
    readable = await has_privilege(connection, "outbox_tasks", "SELECT")
    return await running(connection) if readable else []


class Recorder:
    """Records a run while the context lasts, and then how it has ended. The run sets the attributes."""

    def __init__(
        self,
        url: str,
        kind: Kind,
        parameters: dict[str, Any],
        total: int | None,
        resumed: Task | None = None,
    ) -> None:
        """`resumed` is an earlier run, which goes on in its row; None: a new run."""
        self.events = resumed.events if resumed else 0
        self.total = total
        self.position = resumed.position if resumed else None
        self.recorded = False
        """Whether the row has the present state: the last attempt to write it has succeeded."""
        self._url = url
        self._kind = kind
        self._parameters = parameters
        self._id = resumed.id if resumed else None
        self._connection: Connection | None = None
        self._permitted = True
        self._locked = self._told = False
        self._stop = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Make the row, and go on writing it.

        Raises:
            RefusedError: the run that is to be resumed is still going on.
        """
        await self._write()
        self._writing = asyncio.create_task(self._write_until_stopped())
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        """Write how the run has ended, and disconnect."""
        self._stop.set()
        if self._writing is not None:
            await self._writing
        await self._write(finished=error is None, error=None if error is None else _in_words(error))
        await self._disconnect()

    async def _write_until_stopped(self) -> None:
        written, written_at = self.events, time.monotonic()
        while self._permitted and not self._stop.is_set():
            await pause(self._stop, RECORD_INTERVAL_S)
            if self.events != written or time.monotonic() - written_at > UNCHANGED_INTERVAL_S:
                written, written_at = self.events, time.monotonic()
                await self._write()

    async def _write(self, *, finished: bool = False, error: str | None = None) -> None:
        if not self._permitted:
            return
        try:
            await self._write_row(finished=finished, error=error)
            self.recorded = True
        except ERRORS as problem:
            self.recorded = False
            self._permitted = not isinstance(problem, NOT_PERMITTED)
            if not self._told:
                log.warning("task.unrecorded", task=self._kind, error=reason(problem))
            self._told = True
            await self._disconnect()
        except RefusedError:
            await self._disconnect()
            raise

    async def _write_row(self, *, finished: bool, error: str | None) -> None:
        # The run goes on while a statement is in flight: the three values must be of one moment.
        values = self.events, self.total, _json(self.position)
        if self._connection is None:
            name = f"{self._kind} progress"
            self._connection = await connect(self._url, name, timeout_s=TIMEOUT_S)
        if self._id is None:
            arguments = self._kind, _json(self._parameters)
            self._id = await self._connection.fetchval(BEGIN, *arguments)
            await self._connection.execute(PRUNE, self._id - KEPT)
        self._locked = self._locked or await self._connection.fetchval(LOCK, str(self._id))
        if not self._locked:
            message = f"this {self._kind} is still running: wait until it has ended"
            raise RefusedError(message)
        await self._connection.execute(UPDATE, self._id, *values, finished, error)

    async def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await disconnect(connection)


def _in_words(error: BaseException) -> str:
    """Return the text of an error of this program, and class and text of any other error."""
    own = isinstance(error, (InterruptedByOperator, RefusedError))
    return first_line(error) if own else reason(error)


def _task(row: asyncpg.Record) -> Task:
    values = dict(row)
    for name in ("parameters", "position"):
        values[name] = None if values[name] is None else msgspec.json.decode(values[name])
    return Task(**values)


def _json(value: Position | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
