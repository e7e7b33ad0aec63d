"""NOTIFY tells the relay that there are new events: at most once in 10 ms for each process.

It is sent outside the writing transaction, since NOTIFY takes a database-wide lock at commit. If it is lost,
the relay reads the events at its next poll.
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from service.logs import get_logger
from service.store.database import Database, Session, noticing_loss, unavailable
from service.store.writing.transaction import Witness
from service.supervision import LastingProblem

NOTIFY: Final = "NOTIFY outbox"
INTERVAL_S: Final = 0.010

log = get_logger(__name__)


class Notifier:
    """Sends NOTIFY on a connection of its own: acquiring one from the pool would cost more than sending."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Session | None = None
        self._due = asyncio.Event()
        self._problem = LastingProblem(log, "notify.failed", "notify.recovered")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._send_forever(), name="notify")
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        """Stop; a NOTIFY that is due is lost."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._drop()

    def committed(self, witness: Witness | None) -> None:
        """Send NOTIFY within 10 ms if the transaction of the witness wrote events."""
        if witness is not None and witness.event_id is not None:
            self._due.set()

    async def _send_forever(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                with unavailable():
                    await self._send()
                self._problem.over()
            except Exception as error:  # noqa: BLE001 - the relay polls as well
                self._problem.met(error)
                self._drop()
            await asyncio.sleep(INTERVAL_S)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _send(self) -> None:
        self._connection = await self._database.refreshed(self._connection)
        with noticing_loss(self._connection):
            await self._connection.execute(NOTIFY)
