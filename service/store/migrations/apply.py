"""Applying the schema or the steps that a database lacks.

One process at a time: an advisory lock is held by an open transaction on a connection of its own, so that it
also works behind a transaction pooler. It is polled. A session that waits for it inside a statement would
have a snapshot, for which CREATE INDEX CONCURRENTLY waits, so that both would wait for each other.

A step in a transaction is one message, from BEGIN to COMMIT: a client that hangs or ends holds no lock. It
waits LOCK_TIMEOUT_MS for a lock and then tries again later, because every statement that needs the table
queues behind a waiting ALTER TABLE.

An interrupted migration is repeated. A transaction has left nothing. An interrupted CREATE INDEX CONCURRENTLY
has left an invalid index, which is dropped first; if Postgres is still building it, this is waited for.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from service.logs import get_logger
from service.store.database import Database, roll_back
from service.store.migrations.step import DIRECTORY, Step, read_steps
from service.store.migrations.version import (
    VERSION,
    SchemaError,
    check_not_too_new,
    read_schema,
)

if TYPE_CHECKING:
    from service.store.database import Connection

WHOLE: Final = Path(__file__).parents[3] / "schema.sql"

LOCK_TIMEOUT_MS: Final = 100
"""The longest wait for a lock, during which writers queue behind the step."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
"""Pauses between two attempts, in which the queue behind the step is served; each is twice the one before."""
GIVE_UP_AFTER_S: Final = 600.0
"""Time for all attempts of a step. A longer transaction on the table is one that an operator should see."""
POLL_S: Final = 0.5
"""The pause between two attempts to take the advisory lock."""
NO_LIMIT_S: Final = 7 * 86_400.0
"""The time limit of a statement that reads a table: none, for practical purposes."""

BUSY: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)

TRY_LOCK: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL idle_in_transaction_session_timeout = 0;
SELECT WHERE pg_try_advisory_xact_lock(hashtext('document-links migrate'))
"""
LOCKED: Final = "SELECT 1"
"""The command tag of TRY_LOCK if it took the lock: one row. As a simple query it leaves no snapshot."""

TABLES: Final = """
SELECT current_schema(), count(*)
FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
"""

# The first schema of search_path may have been made later, for example one with the name of the role.
USE_ITS_SCHEMA: Final = """
SELECT set_config(
    'search_path', concat_ws(', ', relnamespace::regnamespace, current_setting('search_path')), true
)
FROM pg_class
WHERE oid = 'schema_version'::regclass
"""
"""New objects are created in the schema that has the tables."""

HOLDER: Final = """
SELECT a.pid, a.application_name, to_char(a.xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS')
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.relation = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
ORDER BY a.xact_start
LIMIT 1
"""

INVALID: Final = """
SELECT true
FROM pg_index
WHERE indexrelid = to_regclass($1) AND NOT indisvalid
"""

log = get_logger(__name__)


async def migrate(database: Database, directory: Path = DIRECTORY) -> str:
    """Bring the database to this program's schema; return what was done, for an operator.

    A newer schema on which this program can run is left as it is, so that a release can be rolled back
    together with its call of `migrate`. The pool must have two connections.

    Raises:
        SchemaError: the database has other tables, a schema on which this program cannot run, or a lock
            that was not free for GIVE_UP_AFTER_S.
        Unavailable: the database is unreachable.
    """
    steps = read_steps(directory)
    async with (
        database.acquire() as lock,
        _one_at_a_time(lock),
        database.acquire() as connection,
    ):
        schema = await read_schema(connection)
        if schema is None:
            await _apply_whole(connection)
            return "schema applied"
        check_not_too_new(schema)
        due = [step for step in steps if step.version > schema.version]
        for step in due:
            await _apply(connection, step)
    if due:
        return f"schema {schema.version} is now schema {due[-1].version}"
    newer = f": {schema.version} is newer than {VERSION}, and this program can run on it"
    return f"schema is up to date{newer if schema.version > VERSION else ''}"


@asynccontextmanager
async def _one_at_a_time(connection: "Connection") -> AsyncIterator[None]:
    """Hold the advisory lock, in a transaction that has neither a snapshot nor an xid."""
    while await connection.execute(TRY_LOCK) != LOCKED:
        await roll_back(connection)
        await asyncio.sleep(POLL_S)
    try:
        yield
    finally:
        await roll_back(connection)


async def check_empty(connection: "Connection") -> None:
    """Raise SchemaError unless the schema in which new tables are created exists and has no table."""
    schema, tables = await connection.fetchrow(TABLES) or (None, 0)
    if schema is None:
        raise SchemaError(
            "search_path names no schema that exists: correct it, or create the schema"
        )
    if tables:
        raise SchemaError(
            f"the schema {schema} is not empty, and its tables are not of this program: use another "
            "database, or correct search_path"
        )


async def _apply_whole(connection: "Connection") -> None:
    await check_empty(connection)
    async with connection.transaction():
        await connection.execute(WHOLE.read_text(), timeout=NO_LIMIT_S)


async def _apply(connection: "Connection", step: Step) -> None:
    """Attempt the step until its locks are free."""
    attempt = _transact if step.in_transaction else _run_outside
    deadline = time.monotonic() + GIVE_UP_AFTER_S
    pause_s, before, told = FIRST_PAUSE_S, None, None
    while True:
        try:
            return await attempt(connection, step)
        except asyncpg.PostgresError as error:
            await roll_back(connection)
            if not isinstance(error, BUSY):
                raise
        held = await _held(connection, step)
        if time.monotonic() > deadline:
            raise SchemaError(f"{step.name} found no free lock in {GIVE_UP_AFTER_S:g} s: {held}")
        if told is None or told != held == before:  # not each of the short transactions in turn
            log.warning("migrate.lock_held", step=step.name, detail=held)
            told = held
        before = held
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _transact(connection: "Connection", step: Step) -> None:
    message = f"""
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
    {USE_ITS_SCHEMA};
    {step.sql};
    {_record(step)};
    COMMIT
    """
    await connection.execute(message, timeout=NO_LIMIT_S)


async def _run_outside(connection: "Connection", step: Step) -> None:
    for lock in step.locks:  # waits for an interrupted migration's backend; no write waits for it
        message = f"BEGIN; LOCK TABLE {lock.table} IN SHARE UPDATE EXCLUSIVE MODE; COMMIT"
        await connection.execute(message, timeout=NO_LIMIT_S)
    if step.new_index and await connection.fetchval(INVALID, step.new_index):
        await connection.execute(f"DROP INDEX CONCURRENTLY {step.new_index}", timeout=NO_LIMIT_S)
    await connection.execute(step.sql, timeout=NO_LIMIT_S)
    await connection.execute(_record(step))


def _record(step: Step) -> str:
    values = f"({step.oldest_programs}, {step.version})"
    return f"INSERT INTO schema_version (version, migration) VALUES {values}"  # noqa: S608 - two numbers


async def _held(connection: "Connection", step: Step) -> str:
    """Return who holds a lock on the step's tables, for an operator."""
    tables = [lock.table for lock in step.locks]
    row = await connection.fetchrow(HOLDER, tables)
    if row is None:
        return f"a lock on {', '.join(tables)} was not free"
    pid, application, since = row  # only some roles see the time
    held = f"session {pid} ({application}) holds a lock on {', '.join(tables)}"
    return f"{held}, in a transaction since {since} UTC" if since else held
