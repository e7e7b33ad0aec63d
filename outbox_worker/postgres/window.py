"""Which rows come next: the window between two snapshots of the database.

Positions become visible out of order (a transaction that took 7 may commit after the one
that took 8), so "position > last" would lose events. The cursor is a snapshot s0 up to which
all is published; the next rows are those visible in a later snapshot s1 and not in s0: of
transactions that were in progress in s0 (late rows), or that began after it (new rows).
Within a window rows come by position, and windows follow one another, so that the events of
one document stay in commit order.
"""

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

# Index scans only, whatever the statistics say (a generic plan made while the tables are
# empty would be a sequential scan, and stay one).
PLANNER_SETTINGS = {
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",
    "work_mem": "64MB",
}

# One statement, so that its own snapshot is s1: the first row. $1 in-progress xids of s0,
# $2 xmax(s0), $3 the most rows to return. Each branch comes in its index' order; the order
# by (xid, position) is what keeps a generic plan on the index on xid.
FOLLOWING = """
SELECT NULL::bigint AS position, pg_current_snapshot()::text AS key, NULL::bytea AS payload,
    NULL::text AS traceparent, NULL::xid8 AS xid
UNION ALL
(SELECT position, key, payload, traceparent, xid
FROM (
    (SELECT position, key, payload, traceparent, xid
    FROM outbox
    WHERE xid = ANY ($1::xid8[])
    LIMIT $3)
    UNION ALL
    (SELECT position, key, payload, traceparent, xid
    FROM outbox
    WHERE xid >= $2::xid8
    ORDER BY xid, position
    LIMIT $3)
) AS u
ORDER BY position)
"""

# The row of the greatest xid after s0: $1 xmax(s0).
NEWEST = """
SELECT xid, position, payload
FROM outbox
WHERE xid >= $1::xid8
ORDER BY xid DESC, position DESC
LIMIT 1
"""

# Where the two branches begin, once a window: $1 in-progress xids of s0, $2 xmax(s0),
# $3 xmax(s1). `position + 0` keeps the planner off the index on position, which it would
# walk from the oldest row on.
STARTS = """
SELECT
    (SELECT min(position + 0) FROM outbox WHERE xid = ANY ($1::xid8[])) AS late,
    (SELECT min(position + 0) FROM outbox WHERE xid >= $2::xid8 AND xid < $3::xid8) AS new
"""

# One page: $1, $2 as above, $3 s1, $4 the position after which late rows come, $5 the same
# of new rows, $6 how many. `(…) IS TRUE` hides the xid from the index, so that the order
# comes from the index on position; OFFSET 0 keeps the late rows on the one on xid.
PAGE = """
SELECT position, key, payload, traceparent
FROM (
    (SELECT position, key, payload, traceparent
    FROM (
        SELECT position, key, payload, traceparent, xid
        FROM outbox
        WHERE xid = ANY ($1::xid8[])
        OFFSET 0
    ) AS l
    WHERE position > $4 AND pg_visible_in_snapshot(xid, $3::pg_snapshot)
    ORDER BY position
    LIMIT $6)
    UNION ALL
    (SELECT position, key, payload, traceparent
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


class Page(NamedTuple):
    """Rows in their order (position, key, payload, traceparent), and the cursor after them.

    `anchor` is None if the page has seen no greater xid than the page before it.
    """

    rows: Sequence[Any]
    cursor: Cursor
    anchor: Anchor | None = None

    @property
    def in_backlog(self) -> bool:
        """Whether the window has more."""
        return self.cursor.s1 is not None


class Window:
    """Reads pages over a session of its own, with the planner's switches set on it."""

    def __init__(self, session: ReadingSession, page_events: int) -> None:
        self._session = session
        self.page_events = page_events  # may be changed between two pages

    @classmethod
    async def open(cls, url: str, page_events: int) -> Self:
        """Connect, with the planner's switches set."""

        async def open_session() -> Connection:
            return await connect(url, "window", timeout_s=READ_TIMEOUT_S, **PLANNER_SETTINGS)

        return cls(ReadingSession(await open_session(), open_session), page_events)

    async def close(self) -> None:
        """End the session."""
        await self._session.close()

    async def read(self, cursor: Cursor) -> Page:
        """Return what comes after the cursor: no rows at its own place, or at a window's end."""
        if cursor.s1 is None:
            return await self._following(cursor.s0)
        return await self._page(cursor)

    async def _following(self, s0: Snapshot) -> Page:
        limit = self.page_events
        first, *rows = await self._session.fetch(FOLLOWING, s0.in_progress, s0.xmax, limit + 1)
        if not rows:
            return Page((), Cursor(s0))
        s1 = Snapshot.parse(first["key"])
        if len(rows) > limit:
            return await self._backlog(s0, s1)
        newest = max(rows, key=itemgetter("xid"))
        anchor = Anchor.of(newest) if newest["xid"] >= s0.xmax else None
        return Page(rows, after_all(s0, s1, newest["xid"]), anchor)

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
        return Page(rows, after_page(cursor, [row["position"] for row in rows], limit))
