"""What one process counts and measures, in plain numbers. `edge.gate.measured` shows them to Prometheus.

Counting is on the path of each call, so it costs an addition or a search among a few bounds. A metric of
prometheus-client takes a lock for each value, or writes to a file if there are several processes.
"""

import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

CALLS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
"""Bounds of numbers of calls or changes. A joint transaction has at most 500 changes."""
DURATIONS_S: Final = (2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10)
"""Bounds of durations, in seconds. A round trip to a Postgres nearby takes some 0.3 ms. A wait for a lock
ends after 0.25 or 2 s, and a statement after 10 s."""

RETRIED: Final = (
    *("locked", "rows_missing", "key_in_flight"),  # see store.writing.execute.LeftOut
    *("rows_changed", "interrupted", "failed"),
)
"""Why a call is tried again in another transaction."""

MAX_KEY_IDS: Final = 1_000
"""Key ids that have a label value of their own. The calls of further keys are counted as `other`."""


class Distribution:
    """Numbers of values by size, and the sum of the values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        """The greatest value of each bucket but the last, which takes all greater values."""
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Steps(Struct, frozen=True):
    """The durations of a transaction's round trips. The names are the values of the label `step`."""

    begin: Distribution
    replies: Distribution
    wait: Distribution
    lock: Distribution
    count: Distribution
    save: Distribution
    commit: Distribution
    rollback: Distribution
    statement: Distribution


class Size(Protocol):
    """What a write needs: see core.writes.Needs."""

    @property
    def size(self) -> int:
        """The number of changes that the caller names."""


class Call(Protocol):
    """A call that writes: see store.writing.execute.Member."""

    arrived: float

    @property
    def needs(self) -> Size:
        """What the write needs."""


class Measures:
    """The numbers of this process since its start. Each attribute is one metric, or one label's values."""

    def __init__(self, *, rate_limited_by_key: bool = False) -> None:
        self.transaction_calls = Distribution(CALLS)
        self.transaction_changes = Distribution(CALLS)
        self.queue_s = Distribution(DURATIONS_S)
        self.transaction_s = Distribution(DURATIONS_S)
        self.steps = Steps(*(Distribution(DURATIONS_S) for _ in Steps.__struct_fields__))
        self.calls_retried = dict.fromkeys(RETRIED, 0)
        self.lock_timeouts = 0
        self.commits_retried = 0
        self.commits_unknown = 0
        self.replies_replayed = 0
        self.last_write_at = 0.0
        """Seconds since 1970; 0: nothing was written yet."""
        self.database_unreachable = False
        """Whether the last call that needed the database failed because it is unreachable."""
        self.pool_waiting = 0
        """The tasks that wait for a connection of the pool."""
        self.writers_waiting = 0
        """The transactions that wait for a place among those that may wait for locks."""
        self.writers = 0
        """The transactions that have such a place."""
        self.calls_in_progress = {"working": 0, "waiting": 0}
        """The calls that are being worked on, and those that wait for a place."""
        self.calls_refused = 0
        """The calls that have waited for a place for too long."""
        self.keys_refreshed = dict.fromkeys(("valid", "revoked", "failed"), 0)
        self.unknown_keys = 0
        self.rate_limited = {"": 0}
        """Calls by the id of their key; all of them under an empty id unless ids are asked for."""
        self._rate_limited_by_key = rate_limited_by_key

    def taken(self, calls: Sequence[Call]) -> None:
        """Count the calls that a transaction has taken from a queue."""
        now = time.monotonic()
        counts, bounds = self.queue_s.counts, self.queue_s.bounds
        waited = 0.0
        changes = 0
        for call in calls:  # a call of `add` for each would take twice the time
            queued_s = now - call.arrived
            counts[bisect_left(bounds, queued_s)] += 1
            waited += queued_s
            changes += call.needs.size
        self.queue_s.total += waited
        self.transaction_calls.add(len(calls))
        self.transaction_changes.add(changes)

    def limited(self, key_id: str) -> None:
        """Count a call that exceeds the rate limit of its key."""
        label = ""
        if self._rate_limited_by_key:
            is_new = key_id not in self.rate_limited and len(self.rate_limited) > MAX_KEY_IDS
            label = "other" if is_new else key_id
        self.rate_limited[label] = self.rate_limited.get(label, 0) + 1
