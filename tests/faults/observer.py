"""The observer: every second it reads Postgres, the topic, and what the programs show."""

import asyncio
import time
from contextlib import suppress
from typing import Final, NamedTuple, Self

import asyncpg

from tests.faults.scraping import Scrape, Scraper
from tests.faults.stage import Stage

EVERY_S: Final = 1.0
LOOK_TIMEOUT_S: Final = 3.0
NO_ANSWER: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended the session between two messages
)

EVENTS = """
SELECT event_id::text AS id, extract(EPOCH FROM clock_timestamp() - created_at)::float8 AS age_s
FROM outbox
"""

LEADERS = """
SELECT count(DISTINCT pid)
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = 'outbox_worker leader'
"""

OLDEST_TRANSACTION = """
SELECT coalesce(max(extract(EPOCH FROM clock_timestamp() - xact_start)), 0)::float8
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND datname = current_database()
"""


class Truth(NamedTuple):
    """The events that are committed in Postgres and have not reached the consumer."""

    due: int
    oldest_s: float
    """The age of the oldest of these events; 0 if there is none."""
    transaction_s: float
    """The age of the oldest transaction with an xid."""
    leaders: int
    """The number of workers' sessions that hold the relay's lock."""


class Moment(NamedTuple):
    """What the observer has read at one time."""

    at: float
    truth: Truth | None
    """None: Postgres did not answer the observer."""
    workers: tuple[Scrape | None, ...]
    """None: the worker did not answer, or its state changed between two reads."""
    service: Scrape | None
    calls: int
    """The number of calls that have ended."""
    unavailable: int
    """The number of calls that were answered 503, or not at all."""


class Observer:
    """Reads everything every second until the context ends."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._scraper = Scraper()
        self.moments: list[Moment] = []

    async def __aenter__(self) -> Self:
        """Begin to read."""
        self._task = asyncio.create_task(self._look_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; raise an error of the observer itself."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._scraper.close()
        if not self._task.cancelled():
            self._task.result()

    async def _look_on(self) -> None:
        while True:
            began = time.monotonic()
            self.moments.append(await self.look())
            await asyncio.sleep(max(0.0, began + EVERY_S - time.monotonic()))

    async def look(self) -> Moment:
        """Read everything once."""
        at, stage = time.monotonic(), self._stage
        truth, service, workers = await asyncio.gather(
            self._truth(),
            self._scraper.page(stage.service.url),
            asyncio.gather(*map(self._scraper.worker, stage.workers)),
        )
        calls, unavailable = stage.callers.count("calls"), stage.callers.count("unavailable")
        return Moment(at, truth, tuple(workers), service, calls, unavailable)

    async def _truth(self) -> Truth | None:
        with suppress(*NO_ANSWER):
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                connection = await asyncpg.connect(self._stage.dsn)
                try:
                    rows = await connection.fetch(EVENTS)
                    heard = self._stage.audience.times.keys()
                    ages = [row["age_s"] for row in rows if row["id"] not in heard]
                    transaction_s = await connection.fetchval(OLDEST_TRANSACTION)
                    leaders = await connection.fetchval(LEADERS)
                    await connection.close()
                finally:
                    connection.terminate()
                return Truth(len(ages), max(ages, default=0.0), transaction_s, leaders)
        return None
