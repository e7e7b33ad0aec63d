"""One transaction: BEGIN, COMMIT, retries, and what is told to others after it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg

from service.core.errors import Unavailable
from service.measures import Measures
from service.store.database import (
    CONNECTION_ERRORS,
    INDEXES_ONLY,
    LOST_ERRORS,
    RETRY_ERRORS,
    STATEMENTS_LOST,
    USE_A_POOLER_THAT_KEEPS_THEM,
    Database,
    Server,
    Session,
    is_lost,
    roll_back,
    terminate,
)
from service.store.writing.notifier import Notifier
from service.store.writing.witness import AnyWitness, Witness, outcome_of

if TYPE_CHECKING:
    from service.store.database import Connection

BEGIN: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = '10s'
"""
"""Overrides the defaults of the role and the database. If statement_timeout fires while COMMIT waits for a
synchronous standby, Postgres commits on the primary alone and sends only a warning (manual,
runtime-config-replication). A process that hangs loses its locks after 10 s."""

BEGIN_WAITING: Final = f"{BEGIN}; SET LOCAL lock_timeout = {{}}; {INDEXES_ONLY}"

LOCK_TIMEOUT_MS: Final = 2_000
"""The longest wait for each lock. After it the caller is answered 503."""
ATTEMPTS: Final = 3
"""How often a write is tried while its attempts end without a commit."""
DEADLINE_S: Final = 10.5
"""The longest time of all attempts together. With the time in a queue, a caller is answered within 15 s."""


class NotCommitted(Exception):  # noqa: N818 - a reason to retry, not a failure
    """The transaction was interrupted and is not committed: retry it."""


class Appeared(Exception):  # noqa: N818 - likewise
    """Another transaction inserted or removed a row between two statements of this one: retry."""


Execute = Callable[["Connection"], Awaitable[Witness | None]]
T = TypeVar("T")


class Transactions:
    """Runs the transactions of this process."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.notifier = Notifier(database)
        self._measures = database.measures

    async def run(
        self,
        connection: "Connection",
        execute: Execute,
        *,
        lock_timeout_ms: int | None = None,
        begins_next: Callable[[], bool] = lambda: True,
    ) -> None:
        """Run `execute` in a transaction, commit, and tell the relay.

        `lock_timeout_ms` is the longest wait for each lock. None: the transaction waits for no lock, and the
        message that ends it also begins the next one if `begins_next`, called before, says so; it may have
        been begun in this way itself.

        Raises:
            NotCommitted: the transaction was interrupted, and nothing was written.
            Unavailable: the database does not answer; or the connection broke during COMMIT, and the outcome
                was not found out in time.
        """
        waits = lock_timeout_ms is not None
        begin = BEGIN_WAITING.format(lock_timeout_ms) if waits else BEGIN
        server: Server | None = getattr(connection, "server", None)  # the pool's proxy passes it on
        measures = self._measures
        began = time.monotonic()
        try:
            witness = await _execute(self.database, connection, execute, begin)
            ending = time.monotonic()
            then = "" if waits or not begins_next() else f";{BEGIN}"
            if witness is None:
                await roll_back(connection, then=then)  # unlike COMMIT, it does not flush WAL
                measures.steps.rollback.add(time.monotonic() - ending)
                return
            committed = _commit(connection, f"COMMIT{then}")
            await self._certain(connection, committed, witness, server)
            measures.steps.commit.add(time.monotonic() - ending)
        except asyncpg.LockNotAvailableError:
            measures.lock_timeouts += 1
            raise
        finally:
            measures.transaction_s.add(time.monotonic() - began)
        self.note_written(has_events=witness.event_id is not None)

    async def run_statement(
        self,
        connection: Session,
        send: Callable[["Connection"], Awaitable[T]],
        witness: AnyWitness[T],
        _: Sequence[object],
    ) -> T:
        """Run a statement that is a transaction of its own, and return what it returns.

        If its answer is lost, return the outcome of the look-up. `_` has the calls that it writes.

        Raises:
            NotCommitted, Unavailable: as `run`.
        """
        measures = self._measures
        began = time.monotonic()
        try:
            return await self._certain(connection, send(connection), witness, connection.server)
        except (*STATEMENTS_LOST, asyncpg.ReadOnlySQLTransactionError) as error:
            if isinstance(error, STATEMENTS_LOST):
                self.database.statements_kept = False
            terminate(connection)
            raise NotCommitted from error
        finally:
            took = time.monotonic() - began
            measures.steps.statement.add(took)
            measures.transaction_s.add(took)

    def note_written(self, *, has_events: bool) -> None:
        """Note that a transaction has been committed, and tell the relay of its events."""
        self._measures.last_write_at = time.time()
        self._measures.database_unreachable = False
        if has_events:
            self.notifier.notify_soon()

    async def _certain(
        self,
        connection: "Connection",
        sent: Awaitable[T],
        witness: AnyWitness[T],
        server: Server | None,
    ) -> T:
        """Await what commits. If the connection breaks, find out whether the transaction was committed.

        Raises:
            NotCommitted: it was not.
            Unavailable: that was not found out in time.
        """
        try:
            try:
                return await sent
            except (*CONNECTION_ERRORS, *LOST_ERRORS) as error:
                terminate(connection)  # the state of its protocol is unknown
                if not (outcome := await outcome_of(self.database, witness, server)):
                    raise NotCommitted from error
                return outcome
            except RETRY_ERRORS as error:
                raise NotCommitted from error
        except NotCommitted:
            self._measures.commits_retried += 1
            raise
        except (Unavailable, asyncio.CancelledError):  # cancelled at the deadline of `run_alone`
            self._measures.commits_unknown += 1
            raise

    async def run_alone(
        self,
        execute: Execute,
        lock_timeout_ms: int = LOCK_TIMEOUT_MS,
        members: Sequence[object] = (),
    ) -> None:
        """Run `execute` in a transaction that waits for locks; retry if it was not committed.

        `lock_timeout_ms` is the longest wait for each lock. `members` are the calls that it writes.

        Raises:
            Unavailable: the database is unreachable, or a lock was not free in time.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._run_alone(execute, lock_timeout_ms, members)
        except TimeoutError as error:
            detail = "the database does not answer: whether it was written is not known yet"
            raise Unavailable(detail) from error

    async def _run_alone(
        self, execute: Execute, lock_timeout_ms: int, members: Sequence[object]
    ) -> None:
        last: Exception | None = None
        for _ in range(ATTEMPTS):
            if last is not None:
                reason = "rows_changed" if isinstance(last, Appeared) else "interrupted"
                self._measures.calls_retried[reason] += len(members)
            try:
                async with self.database.acquire_to_wait() as connection:
                    await self.run(connection, execute, lock_timeout_ms=lock_timeout_ms)
                    return
            except (NotCommitted, Appeared) as error:
                last = error
        if last is not None and isinstance(last.__cause__, asyncpg.ReadOnlySQLTransactionError):
            raise Unavailable("the database is read-only; nothing was written") from last.__cause__
        if last is not None and isinstance(last.__cause__, STATEMENTS_LOST):
            raise Unavailable(USE_A_POOLER_THAT_KEEPS_THEM) from last.__cause__
        detail = f"all {ATTEMPTS} attempts were interrupted; nothing was written"
        raise Unavailable(detail) from last


async def _execute(
    database: Database, connection: "Connection", execute: Execute, begin: str
) -> Witness | None:
    """Run `execute` up to the COMMIT; if it fails, roll back or drop the connection."""
    try:
        if not connection.is_in_transaction():
            await _begin(connection, begin, database.measures)
        return await execute(connection)
    except TimeoutError as error:
        terminate(connection)
        raise Unavailable("the database does not answer; nothing was written") from error
    except (*CONNECTION_ERRORS, *STATEMENTS_LOST, asyncpg.ReadOnlySQLTransactionError) as error:
        if isinstance(error, STATEMENTS_LOST):
            database.statements_kept = False
        terminate(connection)  # a new connection may reach the primary
        raise NotCommitted from error
    except LOST_ERRORS as error:
        if not is_lost(connection, error):
            await roll_back(connection)
            raise
        terminate(connection)
        raise NotCommitted from error
    except RETRY_ERRORS as error:
        await roll_back(connection)
        raise NotCommitted from error
    except asyncio.CancelledError:
        terminate(connection)  # a ROLLBACK might wait as well
        raise
    except BaseException:
        await roll_back(connection)
        raise


async def _commit(connection: "Connection", commit: str) -> bool:
    await connection.execute(commit)
    return True


async def _begin(connection: "Connection", begin: str, measures: Measures) -> None:
    began = time.monotonic()
    await connection.execute(begin)
    measures.steps.begin.add(time.monotonic() - began)
