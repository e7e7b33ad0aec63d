"""The pause of the relay: a row of outbox_pause while an operator wants nothing to be published."""

from typing import NamedTuple

import asyncpg

from outbox_worker.postgres.sessions import has_privilege

READ = """
SELECT extract(EPOCH FROM paused_at)::float8 AS since, paused_by AS by
FROM outbox_pause
"""

PAUSE = """
INSERT INTO outbox_pause (paused_by)
VALUES ($1)
ON CONFLICT ON CONSTRAINT outbox_pause_pkey DO NOTHING
"""

RESUME = """
DELETE FROM outbox_pause
RETURNING extract(EPOCH FROM paused_at)::float8 AS since, paused_by AS by
"""


class Pause(NamedTuple):
    """Since when the relay is paused, in seconds since 1970, and by whom: user and host."""

    since: float
    by: str


async def is_readable(connection: asyncpg.Connection, timeout_s: float | None = None) -> bool:
    """Whether the schema has the table, and the role may read it."""
    return bool(await has_privilege(connection, "outbox_pause", "SELECT", timeout_s))


async def read(connection: asyncpg.Connection, timeout_s: float | None = None) -> Pause | None:
    """Return the pause, None if the relay is not paused."""
    row = await connection.fetchrow(READ, timeout=timeout_s)
    return None if row is None else Pause(*row)


async def begin(connection: asyncpg.Connection, by: str) -> None:
    """Pause the relay; a pause that has begun before remains as it is."""
    await connection.execute(PAUSE, by)


async def end(connection: asyncpg.Connection) -> Pause | None:
    """Resume the relay; return the pause that has ended, None if there was none."""
    row = await connection.fetchrow(RESUME)
    return None if row is None else Pause(*row)
