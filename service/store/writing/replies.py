"""Stored replies: a call that is repeated with its Idempotency-Key gets the reply of the first call.

Replies are deleted after 24 hours.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from service.core.writes import Idempotency, Reply
from service.logs import get_logger
from service.store.database import INDEXES_ONLY, Database
from service.supervision import LastingProblem

if TYPE_CHECKING:
    from service.store.database import Connection

LOCK_SCOPES: Final = "SELECT ordinal, fingerprint, status, body FROM lock_scopes($1, $2, $3)"

INTERVAL_S: Final = 60.0
"""The pause between two deletions of expired replies."""
BATCH: Final = 1000
"""Expired replies deleted in one transaction, which keeps it short."""

TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtext('document-links forget replies'))"

FORGET: Final = """
DELETE FROM idempotency_keys
WHERE ctid = ANY (ARRAY( -- a join might read all replies, if statistics say that they are few
    SELECT ctid
    FROM idempotency_keys
    WHERE created_at <= now() - interval '24 hours'
    ORDER BY created_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
"""

log = get_logger(__name__)


async def lock_scopes(
    connection: "Connection", scopes: Sequence[tuple[str, Idempotency]], *, wait: bool
) -> "list[tuple[bytes, Reply] | bool]":
    """Lock each scope; return for each its stored fingerprint and reply.

    If none is stored: True if the scope is locked now, False if another transaction has locked it.
    """
    answers: list[tuple[bytes, Reply] | bool] = [False] * len(scopes)
    rows = await connection.fetch(
        LOCK_SCOPES,
        [workspace for workspace, _ in scopes],
        [idempotency.scope for _, idempotency in scopes],
        wait,
    )
    for ordinal, fingerprint, status, body in rows:
        stored = fingerprint is not None
        answers[ordinal - 1] = (fingerprint, Reply(status, body, replayed=True)) if stored else True
    return answers


async def forget_expired_forever(database: Database) -> None:
    """Delete expired replies, a batch at a time; an advisory lock admits one process at a time."""
    problem = LastingProblem(log, "idempotency.forget_failed", "idempotency.forget_recovered")
    while True:
        try:
            full = await forget_expired(database)
            if full is not None:
                problem.note_success()
        except Exception as error:  # noqa: BLE001 - the next try may succeed after any error
            problem.note_failure(error)
            full = False
        if not full:
            await asyncio.sleep(INTERVAL_S)


async def forget_expired(database: Database) -> bool | None:
    """Delete one batch; return whether there may be more, None if another process deletes now."""
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="read_committed"),  # overrides the database's default
    ):
        if not await connection.fetchval(TRY_LOCK):
            return None
        await connection.execute(INDEXES_ONLY)
        tag: str = await connection.execute(FORGET, BATCH)
    return tag == f"DELETE {BATCH}"
