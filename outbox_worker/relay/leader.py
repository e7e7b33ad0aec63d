"""The lock of the leader: an advisory lock on a session of its own.

The session of a hanging process stays open, so the leader sends signs of life over it. A standby, or the
server itself, ends a session without them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import asyncpg

from outbox_worker.logs import get_logger
from outbox_worker.postgres.sessions import ERRORS, LEADER, connect, disconnect, is_read_only
from outbox_worker.relay.on_change import OnChange
from outbox_worker.relay.pausing import Pausing
from outbox_worker.tasks import pause

log = get_logger(__name__)

SIGN_OF_LIFE_S = 1
"""A sign of life also reads the pause, which is to be in effect within about a second."""
SIGN_TIMEOUT_S = 3
STATEMENT_TIMEOUT_S = 5
HUNG_AFTER_S = 8
"""The silence after which the leader counts as hung: one sign of life that just succeeds within its
limit, and the wait before it, take 4 s."""
STANDBY_POLL_S = 0.5

# Returns the backend of this session if it has got the lock, else no row.
TRY_LOCK = """
SELECT pg_backend_pid()
WHERE pg_try_advisory_lock(hashtextextended($1, 0))
"""

# The server ends the session of a leader without signs of life, a little later than a standby does. A
# standby with another role, or with track_activities off, cannot see the leader's silence.
END_MY_SESSION_IF_IDLE = f"""
SET idle_session_timeout = '{HUNG_AFTER_S + 2}s'
"""

READ_ONLY = "the server became read-only; a new session may reach the primary"

# The session that holds the lock. pg_locks shows the two halves of a bigint key in classid and objid
# (view-pg-locks in the manual).
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

# Ends the holder's session if it has been silent for $2 seconds, or if it is the former session of this
# process ($3), whose connection was lost without a reset.
END_HUNG_HOLDER = f"""
SELECT a.pid, pg_terminate_backend(a.pid) AS ended
{OF_THE_HOLDER}
    AND (a.state_change < clock_timestamp() - make_interval(secs => $2) OR a.pid = $3)
"""


class LeadershipLostError(Exception):
    """The session that held the lock has ended, or cannot write any more."""


class LeaderLock:
    """The session that holds the lock or polls it; the leader also writes checkpoints over it."""

    def __init__(self, connection: asyncpg.Connection, former_backend: int) -> None:
        self._connection = connection
        # The backend of this session if it has the lock, else of this process' last session with the lock.
        self.backend = former_backend
        self._on_change = OnChange()
        self._turn = asyncio.Lock()
        self._gone = asyncio.Event()
        connection.add_termination_listener(lambda _: self._gone.set())

    @classmethod
    async def open(cls, url: str, former_backend: int = 0) -> Self:
        """Connect. `former_backend`: the backend of this process' last session with the lock; 0: none."""
        connection = await connect(url, LEADER, timeout_s=STATEMENT_TIMEOUT_S)
        return cls(connection, former_backend)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend the session to one task at a time."""
        async with self._turn:
            yield self._connection

    async def acquire(
        self, relay: str, stop: asyncio.Event, locked_elsewhere: Callable[[], None]
    ) -> None:
        """Poll the lock until this session has it, or until the stop event.

        `locked_elsewhere` is called each time that another session has the lock.
        """
        while not stop.is_set():
            async with self.session() as connection:
                if backend := await connection.fetchval(TRY_LOCK, relay):
                    self.backend = backend
                    await connection.execute(END_MY_SESSION_IF_IDLE)
                    return
                locked_elsewhere()
                hung = (relay, HUNG_AFTER_S, self.backend)
                for holder in await connection.fetch(END_HUNG_HOLDER, *hung):
                    if self._on_change.is_new("hung", holder["pid"]):
                        log.warning("leader.hung_holder_ended", backend=holder["pid"])
            await pause(stop, STANDBY_POLL_S)

    async def keep(self, pausing: Pausing) -> None:
        """Send signs of life until the session ends; then raise LeadershipLostError."""
        while True:
            await pause(self._gone, SIGN_OF_LIFE_S)
            if self._gone.is_set():
                raise LeadershipLostError
            try:
                async with self.session() as connection:
                    await pausing.refresh(connection, SIGN_TIMEOUT_S)
                    if is_read_only(connection):  # after a failover, the session is still open
                        raise LeadershipLostError(READ_ONLY)
            except ERRORS as error:
                raise LeadershipLostError from error

    async def close(self) -> None:
        """End the session, which releases the lock."""
        await disconnect(self._connection)
