"""Telling the relay that there is work: a hint, at most one in 10 ms for each process.

Outside the writing transaction, since NOTIFY takes a database-wide lock at commit. A hint that gets
lost costs the relay's poll interval, nothing else.
"""

import asyncio
import logging
from typing import Final

from service.core.errors import Unavailable
from service.store.database import Database

NOTIFY: Final = "NOTIFY outbox"
INTERVAL_S: Final = 0.010

log = logging.getLogger(__name__)


class Notifier:
    """Sends hints on a connection of the pool, one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    def notify(self) -> None:
        """Send a hint soon; several calls in one interval send one."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send(), name="notify")

    async def _send(self) -> None:
        while self._wanted:
            self._wanted = False
            try:
                async with self._database.acquire() as connection:
                    await connection.execute(NOTIFY)
            except Unavailable:
                log.info("notify.failed", exc_info=True)
            await asyncio.sleep(INTERVAL_S)
