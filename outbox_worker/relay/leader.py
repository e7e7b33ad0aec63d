"""One active, others standing by: an advisory lock on a session of its own.

Never a blocking wait for it: that would hold back vacuum for as long as it lasts. A process
that hangs keeps its session, so the leader shows a sign of life on it; a standby, or the server
itself, ends the session of a leader that shows none. Kafka's fencing covers whatever slips through.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import asyncpg

from outbox_worker.logs import get_logger
from outbox_worker.postgres.sessions import ERRORS, connect, disconnect, is_read_only
from outbox_worker.tasks import pause

log = get_logger(__name__)

SIGN_OF_LIFE_S = 2
SIGN_TIMEOUT_S = 3
STATEMENT_TIMEOUT_S = 5
HUNG_AFTER_S = 8
STANDBY_POLL_S = 0.5

# Returns the backend that holds the lock now, or no row.
TRY_LOCK = """
SELECT pg_backend_pid()
WHERE pg_try_advisory_lock(hashtextextended($1, 0))
"""

# The server itself ends the session of a leader that shows no sign of life, a little later than a
# standby does: a standby cannot see a silence with track_activities off, nor as another role.
END_MY_SESSION_IF_IDLE = f"""
SET idle_session_timeout = '{HUNG_AFTER_S + 2}s'
"""

READ_ONLY = "the server became read-only; a new session may reach the primary"

SIGN_OF_LIFE = """
SELECT 1
"""

# The session that holds the lock: the key's two halves are how pg_locks shows a bigint's lock
# (the manual, view-pg-locks).
OF_THE_HOLDER = """
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory'
    AND l.granted
    AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid::bigint = (hashtextextended($1, 0) >> 32) & 4294967295
    AND l.objid::bigint = hashtextextended($1, 0) & 4294967295
"""

# If it has been silent for too long, or is what this process has left behind ($3) on a connection
# that was forgotten on the way.
END_HUNG_HOLDER = f"""
SELECT a.pid, pg_terminate_backend(a.pid) AS ended
{OF_THE_HOLDER}
    AND (a.state_change < clock_timestamp() - make_interval(secs => $2) OR a.pid = $3)
"""


class LeadershipLostError(Exception):
    """The session that held the lock is gone."""


class LeaderLock:
    """The session that holds the lock, or waits for it; the leader writes checkpoints over it."""

    def __init__(self, connection: asyncpg.Connection, former_backend: int) -> None:
        self._connection = connection
        # The backend that holds the lock; until then, the one that held it for this process before.
        self.backend = former_backend
        self._turn = asyncio.Lock()
        self._gone = asyncio.Event()
        connection.add_termination_listener(lambda _: self._gone.set())

    @classmethod
    async def open(cls, url: str, former_backend: int = 0) -> Self:
        """Connect; the former backend is that of this process' last session that held the lock."""
        connection = await connect(url, "leader", timeout_s=STATEMENT_TIMEOUT_S)
        return cls(connection, former_backend)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield the session, for statements that only the holder of the lock may run."""
        async with self._turn:
            yield self._connection

    async def acquire(
        self, relay: str, stop: asyncio.Event, standing_by: Callable[[], None]
    ) -> None:
        """Stand by until this session holds the lock, or until told to stop."""
        while not stop.is_set():
            async with self.session() as connection:
                if backend := await connection.fetchval(TRY_LOCK, relay):
                    self.backend = backend
                    await connection.execute(END_MY_SESSION_IF_IDLE)
                    return
                standing_by()
                hung = (relay, HUNG_AFTER_S, self.backend)
                for holder in await connection.fetch(END_HUNG_HOLDER, *hung):
                    log.warning("leader.hung_holder_ended", backend=holder["pid"])
            await pause(stop, STANDBY_POLL_S)

    async def keep(self) -> None:
        """Show signs of life for as long as the session lasts; LeadershipLostError at its end."""
        while True:
            await pause(self._gone, SIGN_OF_LIFE_S)
            if self._gone.is_set():
                raise LeadershipLostError
            try:
                async with self.session() as connection:
                    await connection.execute(SIGN_OF_LIFE, timeout=SIGN_TIMEOUT_S)
                    if is_read_only(connection):  # an open session on a server that was replaced
                        raise LeadershipLostError(READ_ONLY)
            except ERRORS as error:
                raise LeadershipLostError from error

    async def close(self) -> None:
        """End the session, and with it the lock."""
        await disconnect(self._connection)
