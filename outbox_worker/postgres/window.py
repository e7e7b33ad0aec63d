"""Reads the rows after a cursor, page by page: the window between the snapshots s0 and s1.

The window has two branches: the late rows, whose xid was in progress in s0, and the new rows, whose xid
is at or above xmax(s0). The docstring of `outbox_worker.relay` explains why.

There are two forms of the query:

* FOLLOWING reads both branches in one statement, whose own snapshot is s1. Each branch comes in the order
  of an index, with a LIMIT of one row more than a page. It takes 0.3 ms.
* If FOLLOWING finds more than a page, the window is a backlog. NEWEST clips s1, STARTS finds the first
  position of each branch once (0.5 µs for each row of the window), and PAGE reads page after page by
  position, with pg_visible_in_snapshot. A page of 5,000 rows takes 5 ms. Without the starts, a page would
  walk the index on position from its beginning, or sort the whole window.

The new branch must not start after the highest published position: a transaction can take a position
before it gets its xid.

Both forms return when rows were written. A value costs the worker 0.1 µs, a NULL 0.02 µs, and a row of a
backlog about 6 µs in all. So PAGE returns the time of one row in 32: rows so close to each other in a
backlog were written at nearly the same time.
"""

import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Self

from outbox_worker.postgres.cursor import (
    Anchor,
    Cursor,
    Snapshot,
    after_all,
    after_page,
    before,
    window_end,
)
from outbox_worker.postgres.reading_session import ReadingSession
from outbox_worker.postgres.sessions import Connection, connect

# Index scans only: a generic plan that is made while the tables are empty would otherwise be a sequential
# scan, and would be kept. work_mem is for the sort of one page.
PLANNER_SETTINGS = {
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",
    "work_mem": "64MB",
}

# The first row holds the statement's own snapshot, which is s1, and the server's time. $1 in-progress
# xids of s0, $2 xmax(s0), $3 the limit of each branch. ORDER BY xid, position keeps a generic plan on the
# index on xid.
FOLLOWING = """
SELECT NULL::bigint AS position, pg_current_snapshot()::text AS key, NULL::bytea AS payload,
    NULL::text AS traceparent, date_part('epoch', clock_timestamp()) AS written_at, NULL::xid8 AS xid
UNION ALL
(SELECT position, key, payload, traceparent, date_part('epoch', created_at) AS written_at, xid
FROM (
    (SELECT position, key, payload, traceparent, created_at, xid
    FROM outbox
    WHERE xid = ANY ($1::xid8[])
    LIMIT $3)
    UNION ALL
    (SELECT position, key, payload, traceparent, created_at, xid
    FROM outbox
    WHERE xid >= $2::xid8
    ORDER BY xid, position
    LIMIT $3)
) AS u
ORDER BY position)
"""

# The new row with the greatest xid. $1 xmax(s0).
NEWEST = """
SELECT xid, position, payload
FROM outbox
WHERE xid >= $1::xid8
ORDER BY xid DESC, position DESC
LIMIT 1
"""

# The first position of each branch. $1 in-progress xids of s0, $2 xmax(s0), $3 xmax(s1). `position + 0`
# keeps the planner from the index on position, which it would walk from the oldest row on.
STARTS = """
SELECT
    (SELECT min(position + 0) FROM outbox WHERE xid = ANY ($1::xid8[])) AS late,
    (SELECT min(position + 0) FROM outbox WHERE xid >= $2::xid8 AND xid < $3::xid8) AS new
"""

# One page of a backlog. $1 in-progress xids of s0, $2 xmax(s0), $3 s1, $4 the last position of the late
# rows before the page, $5 that of the new rows, $6 the limit. `(…) IS TRUE` keeps the planner from the
# index on xid, so that the order comes from the index on position. OFFSET 0 keeps the late rows on the
# index on xid.
PAGE = """
SELECT position, key, payload, traceparent,
    CASE WHEN position % 32 = 0 THEN date_part('epoch', created_at) END AS written_at
FROM (
    (SELECT position, key, payload, traceparent, created_at
    FROM (
        SELECT position, key, payload, traceparent, created_at, xid
        FROM outbox
        WHERE xid = ANY ($1::xid8[])
        OFFSET 0
    ) AS l
    WHERE position > $4 AND pg_visible_in_snapshot(xid, $3::pg_snapshot)
    ORDER BY position
    LIMIT $6)
    UNION ALL
    (SELECT position, key, payload, traceparent, created_at
    FROM outbox
    WHERE position > $5
        AND (xid >= $2::xid8) IS TRUE
        AND pg_visible_in_snapshot(xid, $3::pg_snapshot)
    ORDER BY position
    LIMIT $6)
) AS u
ORDER BY position
LIMIT $6
"""

READ_TIMEOUT_S = 30
STARTS_TIMEOUT_S = 600
WRITTEN_AT = itemgetter(4)


class Page(NamedTuple):
    """Rows by position (position, key, payload, traceparent), and the cursor after them.

    `anchor` is None if the page has no greater xid than the pages before it. `written_at` has the times, in
    ascending order, at which rows of the page were written: of each row, or of a sample. They are in
    seconds of the server's clock (Window.server_time).
    """

    rows: Sequence[Any]
    cursor: Cursor
    anchor: Anchor | None = None
    written_at: Sequence[float] = ()

    @property
    def in_backlog(self) -> bool:
        """Whether the window has more rows."""
        return self.cursor.s1 is not None


class Window:
    """Reads pages of at most `page_events` rows over a session of its own."""

    def __init__(self, session: ReadingSession, page_events: int) -> None:
        self._session = session
        self.page_events = page_events
        # The server's clock minus the monotonic one. Each FOLLOWING measures it; the error is less than
        # the statement's round trip.
        self._clock_difference_s = time.time() - time.monotonic()
        self._written_at: Sequence[float] = ()

    @classmethod
    async def open(cls, url: str, page_events: int) -> Self:
        """Connect, with PLANNER_SETTINGS set in the session."""

        async def open_session() -> Connection:
            return await connect(url, "window", timeout_s=READ_TIMEOUT_S, **PLANNER_SETTINGS)

        return cls(ReadingSession(await open_session(), open_session), page_events)

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    def server_time(self) -> float:
        """Return the time of the server's clock."""
        return time.monotonic() + self._clock_difference_s

    async def read(self, cursor: Cursor) -> Page:
        """Return the page after a cursor.

        The page has no rows if there are none yet, or if the cursor is at the end of a window.
        """
        if cursor.s1 is None:
            return await self._following(cursor.s0)
        return await self._page(cursor)

    async def _following(self, s0: Snapshot) -> Page:
        limit = self.page_events
        sent_at = time.monotonic()
        first, *rows = await self._session.fetch(FOLLOWING, s0.in_progress, s0.xmax, limit + 1)
        self._clock_difference_s = WRITTEN_AT(first) - sent_at
        if not rows:
            return Page((), Cursor(s0))
        s1 = Snapshot.parse(first["key"])
        if len(rows) > limit:
            self._written_at = (WRITTEN_AT(rows[0]),)
            return await self._backlog(s0, s1)
        newest = max(rows, key=itemgetter("xid"))
        anchor = Anchor.of(newest) if newest["xid"] >= s0.xmax else None
        written_at = sorted(map(WRITTEN_AT, rows))
        return Page(rows, after_all(s0, s1, newest["xid"]), anchor, written_at)

    async def _backlog(self, s0: Snapshot, s1: Snapshot) -> Page:
        newest = await self._session.fetch(NEWEST, s0.xmax)
        s1 = window_end(s0, s1, newest[0]["xid"] if newest else None)
        ((late, new),) = await self._session.fetch(
            STARTS, s0.in_progress, s0.xmax, s1.xmax, timeout_s=STARTS_TIMEOUT_S
        )
        first = await self._page(Cursor(s0, s1, (before(late), before(new))))
        return first._replace(anchor=Anchor.of(newest[0]) if newest else None)

    async def _page(self, cursor: Cursor) -> Page:
        s0, s1, after = cursor
        limit = self.page_events
        rows = await self._session.fetch(PAGE, s0.in_progress, s0.xmax, s1, *after, limit)
        end = after_page(cursor, rows[-1]["position"] if rows else 0, full=len(rows) == limit)
        # A page of less than 32 rows may have no sample. The last one before it then takes its place.
        self._written_at = sorted(filter(None, map(WRITTEN_AT, rows))) or self._written_at[-1:]
        return Page(rows, end, written_at=self._written_at)
