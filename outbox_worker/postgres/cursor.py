"""The cursor, which tells the published rows: two snapshots, and pure functions that move it.

The package's docstring in `outbox_worker.relay` explains why a cursor is a pair of snapshots.
"""

import hashlib
from itertools import pairwise
from typing import Any, NamedTuple, Self

MAX_XID = 2**64 - 1
NO_ROWS_AFTER = 2**63 - 1
"""The greatest bigint: no row has a higher position."""

COVERED = """
pg_visible_in_snapshot(xid, $1::pg_snapshot)
OR (pg_visible_in_snapshot(xid, $2::pg_snapshot)
    AND ((xid = ANY ($5::xid8[]) AND position <= $3) OR (xid >= $6::xid8 AND position <= $4)))
"""
"""The rows that a cursor covers; its parameters are `Cursor.covered`. The last two tell late rows
from new rows: $5 the in-progress xids of s0, $6 xmax(s0)."""


class Snapshot(NamedTuple):
    """A pg_snapshot; the manual of Postgres describes it under functions-info-snapshot."""

    xmin: int
    xmax: int
    in_progress: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the snapshot that Postgres writes as `xmin:xmax:xid,xid`."""
        xmin, xmax, xids = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(xid) for xid in xids.split(",") if xid))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.in_progress))}"

    def is_valid(self) -> bool:
        """Whether Postgres accepts the snapshot: ascending xids between xmin and xmax."""
        xids = self.in_progress
        ascending = all(xid < following for xid, following in pairwise(xids))
        inside = not xids or (self.xmin <= xids[0] and xids[-1] < self.xmax)
        return 0 < self.xmin <= self.xmax <= MAX_XID and ascending and inside

    def clipped(self, xmax: int) -> "Snapshot":
        """Return the snapshot with a smaller xmax, without the in-progress xids above it."""
        xmax = min(xmax, self.xmax)
        below = tuple(xid for xid in self.in_progress if xid < xmax)
        return Snapshot(min(below, default=xmax), xmax, below)


class Cursor(NamedTuple):
    """The published rows: all that are visible in s0, and a part of the window between s0 and s1.

    Between windows s1 is None. `after` holds two positions: the late rows up to the first and the
    new rows up to the second one are published.
    """

    s0: Snapshot
    s1: Snapshot | None = None
    after: tuple[int, int] = (0, 0)

    def covered(self) -> tuple[Any, ...]:
        """Return the parameters of COVERED."""
        return self.s0, self.s1 or self.s0, *self.after, self.s0.in_progress, self.s0.xmax


BEGINNING = Cursor(Snapshot(1, 1))


class Anchor(NamedTuple):
    """The row of the greatest xid that a cursor covers: its position and a digest of its payload.

    The database hands out no xid below the cursor's xmax again as long as it holds this row. A
    database without the row was restored to an earlier time: new transactions get xids below the
    cursor's xmax, and the cursor would hide their rows.
    """

    position: int
    digest: str

    @classmethod
    def of(cls, row: Any) -> Self:  # noqa: ANN401 - a record of asyncpg's, which has no type of its own
        """Return the anchor for a row. The payload contains the event's id, which is unique."""
        return cls(row["position"], hashlib.sha256(row["payload"]).hexdigest()[:16])


def window_end(s0: Snapshot, s1: Snapshot, greatest_xid: int | None) -> Snapshot:
    """Return s1, clipped to the rows of its window.

    `greatest_xid` is the greatest xid of the new rows. None: the window has late rows only, and its
    end must not lie below xmax(s0).
    """
    return s1.clipped(s0.xmax if greatest_xid is None else max(s0.xmax, greatest_xid + 1))


def after_all(s0: Snapshot, s1: Snapshot, greatest_xid: int) -> Cursor:
    """Return the cursor after a window that fits into one page, given its rows' greatest xid."""
    return Cursor(window_end(s0, s1, greatest_xid))


def after_page(cursor: Cursor, last: int, *, full: bool) -> Cursor:
    """Return the cursor after one page of a window, given the position of the page's last row.

    A page that is not full, which may have no rows, is the window's last: its s1 becomes the next s0.
    """
    s0, s1, after = cursor
    if s1 is not None and not full:
        return Cursor(s1)
    return Cursor(s0, s1, (max(after[0], last), max(after[1], last)))


def before(start: int | None) -> int:
    """Return the position before the first row of a branch; None: the branch has no rows."""
    return NO_ROWS_AFTER if start is None else start - 1
