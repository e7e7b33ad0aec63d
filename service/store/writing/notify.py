"""Telling the relay that there is work: a hint, at most one in 10 ms for each process.

Outside the writing transaction, since NOTIFY takes a database-wide lock at commit. A hint that gets
lost costs the relay's poll interval, nothing else.
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from service.logs import get_logger
from service.store.database import Database, Session, noticing_loss, unavailable
from service.supervision import LastingProblem

NOTIFY: Final = "NOTIFY outbox"
INTERVAL_S: Final = 0.010

log = get_logger(__name__)


class Notifier:
    """Sends hints, one at a time, on a connection of its own: lending one would cost more than the hint."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Session | None = None
        self.due = asyncio.Event()
        """Set after the COMMIT of a transaction that wrote events: a hint is sent soon."""
        self._problem = LastingProblem(log, "notify.failed", "notify.recovered")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._send_forever(), name="notify")
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        """Send no more; a hint that is lost costs little."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._drop()

    async def _send_forever(self) -> None:
        with suppress(
            Exception
        ):  # so that the first hint need not wait for it; each hint tries again
            self._connection = await self._database.connect()
        while True:
            await self.due.wait()
            self.due.clear()
            try:
                with unavailable():
                    await self._send()
                self._problem.over()
            except Exception as error:  # noqa: BLE001 - a hint that is lost costs little
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
