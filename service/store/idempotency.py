"""Forgetting stored replies after their 24 hours."""

import asyncio
import logging
from typing import Final

from service.core.errors import Unavailable
from service.store.database import Database

INTERVAL_S: Final = 60.0
BATCH: Final = 1000

TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtext('document-links forget replies'))"

FORGET: Final = """
DELETE FROM idempotency_keys
WHERE (workspace_id, scope) IN (
    SELECT workspace_id, scope
    FROM idempotency_keys
    WHERE created_at <= now() - interval '24 hours'
    ORDER BY created_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
"""

log = logging.getLogger(__name__)


async def forget_expired_forever(database: Database) -> None:
    """Delete expired replies, a batch at a time; of all processes, one at once."""
    while True:
        try:
            full = await forget_expired(database)
        except Unavailable as error:
            log.info("idempotency.forget_failed", extra={"error": str(error.__cause__ or error)})
            full = False
        except Exception:
            log.exception("idempotency.forget_failed")  # whatever it is, it must not end the loop
            full = False
        if not full:
            await asyncio.sleep(INTERVAL_S)


async def forget_expired(database: Database) -> bool:
    """Delete one batch; return whether there may be more."""
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="read_committed"),  # whatever the database's default is
    ):
        if not await connection.fetchval(TRY_LOCK):
            return False
        tag: str = await connection.execute(FORGET, BATCH)
    return tag == f"DELETE {BATCH}"
