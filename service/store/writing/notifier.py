"""The NOTIFY that tells the relay of new events.

NOTIFY is sent after the transaction, since inside it would take a lock of the whole database at commit. Each
process sends it at most once in 10 ms. If it is lost, the relay reads the events at its next poll.
"""

import asyncio
from contextlib import suppress
from typing import Final

from service.logs import get_logger
from service.store.database import Database, Session, as_refusal, noticing_loss
from service.supervision import LastingProblem

NOTIFY: Final = "NOTIFY outbox"
NOTIFY_INTERVAL_S: Final = 0.010
"""The shortest time between two NOTIFYs."""

log = get_logger(__name__)


class Notifier:
    """Sends NOTIFY on a connection of its own: acquiring one from the pool would cost more than sending."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Session | None = None
        self._due = asyncio.Event()
        self._problem = LastingProblem(log, "notify.failed", "notify.recovered")

    def start(self) -> None:
        """Start the task that sends."""
        self._task = asyncio.create_task(self._send_forever(), name="notify")

    async def stop(self) -> None:
        """End the task; a NOTIFY that is due is lost."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._drop()

    def notify_soon(self) -> None:
        """Send NOTIFY within 10 ms."""
        self._due.set()

    async def _send_forever(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._send()
            except Exception as error:  # noqa: BLE001 - the relay polls as well
                self._problem.note_failure(as_refusal(error) or error)
                self._drop()
            else:
                self._problem.note_success()
            await asyncio.sleep(NOTIFY_INTERVAL_S)

    async def _send(self) -> None:
        self._connection = await self._database.refreshed(self._connection)
        with noticing_loss(self._connection):
            await self._connection.execute(NOTIFY)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
