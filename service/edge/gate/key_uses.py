"""When each key was last used: read from the cache of keys, and written at most once an hour for each key.

A request costs nothing more, because the cache holds the time of each key's last use anyway.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from service.edge.gate.keys import KeyRing
from service.logs import get_logger
from service.store.database import Database
from service.store.keys import record_uses
from service.supervision import LastingProblem

RECORD_INTERVAL_S: Final = 10.0
"""The time between two looks at the cache. Uses in the last seconds of the process may be missing."""
RETRY_S: Final = 600.0
"""The time until the next attempt after an error. With a missing right, Postgres logs each attempt."""
HOUR_S: Final = 3600

log = get_logger(__name__)


class KeyUses:
    """Records the uses of the keys in one process' cache."""

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._database = database
        self._keys = keys
        self._recorded: dict[str, int] = {}
        """The last hour that this process has written for each key in the cache, in hours since 1970."""

    async def record_forever(self) -> None:
        """Record until the task is cancelled; retry after any error."""
        problem = LastingProblem(log, "keys.uses_unrecorded", "keys.uses_recorded")
        while True:
            await asyncio.sleep(RETRY_S if problem.lasts else RECORD_INTERVAL_S)
            try:
                await self.record()
                problem.note_success()
            except Exception as error:  # noqa: BLE001 - the next try may succeed after any error
                problem.note_failure(error)

    async def record(self) -> None:
        """Write each key's last use, unless this process has written one of the same hour."""
        hours = _hours(self._keys.uses())
        self._recorded = {key: hour for key, hour in self._recorded.items() if key in hours}
        new = {key: hour for key, hour in hours.items() if hour > self._recorded.get(key, 0)}
        if new:
            await record_uses(self._database, {key: hour * HOUR_S for key, hour in new.items()})
            self._recorded |= new


def _hours(uses: Iterable[tuple[str, float]]) -> dict[str, int]:
    """Return the hour of each key's last use, given by the monotonic clock, in hours since 1970."""
    since_1970 = time.time() - time.monotonic()
    return {key: int((used_at + since_1970) // HOUR_S) for key, used_at in uses}
