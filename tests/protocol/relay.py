"""The relay in the model: its workers, the topics, and the relay's decisions.

The decisions are the relay's own functions. The model gets them as `Rules`, so that a test can replace
one by a version with a mistake.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple

from outbox_worker.postgres.cursor import (
    BEGINNING,
    Anchor,
    Cursor,
    Snapshot,
    after_all,
    after_page,
    before,
    window_end,
)
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import ClusterIdentity
from outbox_worker.relay.start import Evidence, Start, decide_start
from tests.protocol.postgres import Event, Postgres, Row

STANDBY: Final = "standby"
LOCKED: Final = "locked"
FENCED: Final = "fenced"
STARTED: Final = "started"
CHECKED: Final = "checked"
LEADING: Final = "leading"
PUBLISHING: Final = "publishing"


class Record(NamedTuple):
    """A progress record or a checkpoint: a hashable part of `Progress`."""

    cursor: Cursor
    token: int
    events: int
    timeline: int
    anchor: Anchor | None


class Kafka(NamedTuple):
    """The event topic as a set, and the end of the progress topic."""

    published: frozenset[Event] = frozenset()
    unrecorded: frozenset[Event] = frozenset()
    """The published events that no progress record covers yet."""
    record: Record | None = None
    """The last committed progress record."""
    hidden: bool = False
    """Whether another producer's open transaction hides the records after `readable`."""
    readable: Record | None = None


class Worker(NamedTuple):
    """A worker; `timeline` is the database's timeline at the beginning of the term."""

    state: str = STANDBY
    fenced: bool = False
    cursor: Cursor = BEGINNING
    token: int = 0
    events: int = 0
    timeline: int = 0
    anchor: Anchor | None = None
    unchecked: bool = False
    connected: bool = True
    page: tuple[Event, ...] = ()
    sent: frozenset[Event] = frozenset()
    """The events of the page that were appended with at-least-once delivery."""
    after: Cursor = BEGINNING


def anchor_of(row: Row) -> Anchor:
    """Return a row's anchor; the event takes the place of the payload's digest."""
    return Anchor(row.position, str(row.event))


class Page(NamedTuple):
    """A page: its rows, the cursor after them, and the anchor of the row with the greatest xid."""

    rows: Sequence[Row]
    cursor: Cursor
    anchor: Anchor | None = None


class Rules(NamedTuple):
    """The decisions of the relay; the defaults are the relay's own code."""

    window_end: Callable[[Snapshot, Snapshot, int | None], Snapshot] = window_end
    after_all: Callable[[Snapshot, Snapshot, int], Cursor] = after_all
    holds: Callable[[Postgres, Anchor | None], bool] = lambda postgres, anchor: (
        anchor is None or anchor in map(anchor_of, postgres.rows())
    )
    """Whether the database has the row of a record's anchor."""
    reads_below_open_transactions: bool = False
    """Whether a record counts as the last one although an open transaction may hide newer ones."""
    fences_at_least_once: bool = True
    """Whether the next producer fences one with at-least-once delivery."""

    def start(self, kafka: Kafka, postgres: Postgres) -> Start:
        """Return the relay's start, decided from the records that it can read."""
        record = kafka.readable if kafka.hidden else kafka.record
        read_to_end = self.reads_below_open_transactions or not kafka.hidden
        held = Evidence(
            checkpoint=record is not None and record.token in postgres.tokens,
            anchor=record is not None and self.holds(postgres, record.anchor),
        )
        return decide(record, postgres.checkpoint, postgres.timeline, held, read_to_end=read_to_end)

    def read(self, postgres: Postgres, cursor: Cursor, batch_size: int) -> Page:
        """Return a page, as the statements in `outbox_worker.postgres.window` read it."""
        s0 = cursor.s0
        rows = postgres.rows()
        if cursor.s1 is None:
            late = [row for row in rows if row.xid in s0.in_progress]
            new = [row for row in rows if row.xid >= s0.xmax]
            due = sorted(late + new)
            if not due:
                return Page((), cursor)
            s1 = postgres.snapshot()
            newest = max(new, key=attrgetter("xid"), default=None)
            anchor = newest and anchor_of(newest)
            if len(due) <= batch_size:
                greatest = max(row.xid for row in due)
                return Page(due, self.after_all(s0, s1, greatest), anchor)
            s1 = self.window_end(s0, s1, newest and newest.xid)
            starts = [min((row.position for row in each), default=None) for each in (late, new)]
            cursor = Cursor(s0, s1, (before(starts[0]), before(starts[1])))
        else:
            anchor = None
        page = _page(rows, cursor)[:batch_size]
        last = page[-1].position if page else 0
        after = after_page(cursor, last, full=len(page) == batch_size)
        return Page(page, after, anchor)


def _page(rows: Sequence[Row], cursor: Cursor) -> list[Row]:
    s0, s1, (after_late, after_new) = cursor
    assert s1 is not None
    return [
        row
        for row in rows
        if row.xid < s1.xmax
        and row.xid not in s1.in_progress
        and (
            (row.xid in s0.in_progress and row.position > after_late)
            or (row.xid >= s0.xmax and row.position > after_new)
        )
    ]


@lru_cache(maxsize=100_000)
def decide(
    record: Record | None,
    checkpoint: Record | None,
    timeline: int,
    held: Evidence,
    *,
    read_to_end: bool,
) -> Start:
    """Call the relay's decision about its start."""
    return decide_start(
        None if record is None else _progress(record),
        None if checkpoint is None else _progress(checkpoint),
        ClusterIdentity("1", 1, str(timeline)),
        evidence=held,
        read_to_end=read_to_end,
    )


def _progress(record: Record) -> Progress:
    s0, s1, after = record.cursor
    return Progress(
        system_identifier="1",
        database_oid=1,
        timeline=str(record.timeline),
        checkpoint=str(record.token),
        s0=str(s0),
        s1=None if s1 is None else str(s1),
        after=after,
        offsets={},
        events=record.events,
        at=0.0,
        anchor=record.anchor,
    )
