"""Which rows come next: the window between two snapshots of the database.

Positions become visible out of order (a transaction that took 7 may commit after the one
that took 8), so "position > last" would lose events. The cursor is a snapshot s0 up to which
all is published; the next rows are those visible in a later snapshot s1 and not in s0: of
transactions that were in progress in s0 (late rows), or that began after it (new rows).
Within a window rows come by position, and windows follow one another, so that the events of
one document stay in commit order.
"""

import hashlib
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Self

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

# The rows that a cursor covers, with the arguments of `Cursor.covered`: $1 s0; $2 s1 and, of its window, what
# stands up to $3 (late rows) and $4 (new rows); $5 and $6 tell the two apart.
COVERED = """
pg_visible_in_snapshot(xid, $1::pg_snapshot)
OR (pg_visible_in_snapshot(xid, $2::pg_snapshot)
    AND ((xid = ANY ($5::xid8[]) AND position <= $3) OR (xid >= $6::xid8 AND position <= $4)))
"""

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

NO_ROWS_AFTER = 2**63 - 1
READ_TIMEOUT_S = 30
STARTS_TIMEOUT_S = 600


class Snapshot(NamedTuple):
    """A pg_snapshot, as PostgreSQL's manual has it (functions-info-snapshot)."""

    xmin: int
    xmax: int
    in_progress: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the snapshot that PostgreSQL writes as `xmin:xmax:xid,xid`."""
        xmin, xmax, xids = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(xid) for xid in xids.split(",") if xid))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.in_progress))}"

    def clipped(self, xmax: int) -> "Snapshot":
        """Return the same snapshot with a smaller xmax, and without what lies above it.

        After a crash PostgreSQL hands out again the xids of transactions that aborted unflushed.
        A committed row's xid is durable, so one more than the greatest is a bound below which
        no xid ever comes back.
        """
        xmax = min(xmax, self.xmax)
        below = tuple(xid for xid in self.in_progress if xid < xmax)
        return Snapshot(min(below, default=xmax), xmax, below)


class Cursor(NamedTuple):
    """How far we are: all up to s0, and of the window up to s1 what stands at or before `after`.

    s1 is None between windows. `after` has a position for late rows and one for new rows.
    """

    s0: Snapshot
    s1: Snapshot | None = None
    after: tuple[int, int] = (0, 0)

    def covered(self) -> tuple[Any, ...]:
        """Return the arguments of COVERED."""
        return self.s0, self.s1 or self.s0, *self.after, self.s0.in_progress, self.s0.xmax


BEGINNING = Cursor(Snapshot(1, 1))


class Anchor(NamedTuple):
    """The row of the greatest xid that a cursor has seen: its position, a digest of its payload.

    A database that holds this row never hands out an xid below the cursor's xmax again. One that
    does not hold it has gone back in time, to before the row: the cursor would hide the rows of
    transactions that get the same xids.
    """

    position: int
    digest: str

    @classmethod
    def of(cls, row: Any) -> Self:  # noqa: ANN401 - a record of asyncpg's, which has no type of its own
        """Return the anchor that a row is. The payload has the event's id, which is unique."""
        return cls(row["position"], hashlib.sha256(row["payload"]).hexdigest()[:16])


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

    def __init__(self, session: ReadingSession, batch_size: int) -> None:
        self._session = session
        self.batch_size = batch_size  # may be changed between two pages

    @classmethod
    async def open(cls, url: str, batch_size: int) -> Self:
        """Connect, with the planner's switches set."""

        async def open_session() -> Connection:
            return await connect(url, "window", timeout_s=READ_TIMEOUT_S, **PLANNER_SETTINGS)

        return cls(ReadingSession(await open_session(), open_session), batch_size)

    async def close(self) -> None:
        """End the session."""
        await self._session.close()

    async def read(self, cursor: Cursor) -> Page:
        """Return what comes after the cursor: no rows at its own place, or at a window's end."""
        if cursor.s1 is None:
            return await self._following(cursor.s0)
        return await self._page(cursor)

    async def _following(self, s0: Snapshot) -> Page:
        limit = self.batch_size
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
        limit = self.batch_size
        rows = await self._session.fetch(PAGE, s0.in_progress, s0.xmax, s1, *after, limit)
        return Page(rows, after_page(cursor, [row["position"] for row in rows], limit))


def window_end(s0: Snapshot, s1: Snapshot, greatest_xid: int | None) -> Snapshot:
    """Return s1, clipped to the rows of its window.

    `greatest_xid` is the greatest xid of a row at or above xmax(s0), None if there is no such row:
    the window then has late rows only, and its end must not lie below s0.
    """
    return s1.clipped(s0.xmax if greatest_xid is None else max(s0.xmax, greatest_xid + 1))


def after_all(s0: Snapshot, s1: Snapshot, greatest_xid: int) -> Cursor:
    """Return the cursor after a window that fits into one page, from its rows' greatest xid."""
    return Cursor(window_end(s0, s1, greatest_xid))


def after_page(cursor: Cursor, positions: Sequence[int], batch_size: int) -> Cursor:
    """Return the cursor after one page of a window, from the positions of the page's rows.

    A page that is not full is the window's last: its s1 becomes the next window's s0.
    """
    s0, s1, after = cursor
    if s1 is not None and len(positions) < batch_size:
        return Cursor(s1)
    last = positions[-1]
    return Cursor(s0, s1, (max(after[0], last), max(after[1], last)))


def before(start: int | None) -> int:
    """Return the position after which a branch begins; None: the branch has no rows."""
    return NO_ROWS_AFTER if start is None else start - 1
