"""A value that is read every few seconds while requests for it arrive, once for all of them."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Generic, TypeVar

from aiokafka.errors import KafkaError

from outbox_worker.logs import reason
from outbox_worker.postgres.sessions import ERRORS, UnusableUrlError

WATCHED_S: Final = 30.0
"""The time after a request for which the value is read again. A page sends a request every 5 s."""
WAIT_S: Final = 1.0
"""The longest wait of a request if no other request has arrived lately, so that the value is old."""

T = TypeVar("T")
Read = Callable[[], Awaitable[T]]


class Watched(Generic[T]):
    """The value that was read last, or the error of the last attempt.

    `connect` makes a connection, and yields a function that reads the value over it.
    """

    def __init__(
        self, connect: Callable[[], AbstractAsyncContextManager[Read[T]]], every_s: float
    ) -> None:
        self.value: T | None = None
        self.problem: str | None = None
        self._connect = connect
        self._every_s = every_s
        self._asked_at = 0.0
        self._asked = asyncio.Event()
        self._attempted = asyncio.Event()

    async def refresh(self) -> None:
        """Ask for the value; return when it has been read lately, but after WAIT_S at the latest."""
        self._asked_at = time.monotonic()
        self._asked.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self._attempted.wait()

    async def run(self) -> None:
        """Read while requests arrive, until cancelled. An unexpected error is a problem too, and raised."""
        task = asyncio.current_task()
        while not (task and task.cancelling()):  # aiokafka's close() may swallow a cancellation
            await self._asked.wait()
            try:
                async with self._connect() as read:
                    while self._is_watched():
                        self._note(await read(), None)
                        await asyncio.sleep(self._every_s)
            except (*ERRORS, KafkaError, UnusableUrlError) as error:
                self._note(None, reason(error))
                await asyncio.sleep(self._every_s)
            except Exception as error:
                self._note(None, reason(error))
                raise
            if not self._is_watched():
                self._asked.clear()
                self._attempted.clear()

    def _is_watched(self) -> bool:
        return time.monotonic() - self._asked_at < WATCHED_S

    def _note(self, value: T | None, problem: str | None) -> None:
        self.value, self.problem = value, problem
        self._attempted.set()
