"""The progress record, and where a leader starts from: pure functions, without any I/O.

The truth is a record on the relay's progress topic, committed in the same Kafka transaction
as the events before it. A copy of it, the checkpoint, is written to the database every 10 s
of work (ledger.py). A database that goes back in time takes its checkpoints along; the record
in Kafka is then ahead of the database, and wrong.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from outbox_worker.postgres.registration import Place, RefusedError
from outbox_worker.postgres.window import BEGINNING, Anchor, Cursor, Snapshot

KEY = b"cursor"  # of each progress record: the topic is compacted
MOST_POSITION = 2**63 - 1
MOST_XID = 2**64 - 1
MOST_OID = 2**32 - 1
HIDDEN = "another producer's open transaction hides the end of the progress topic"

Source = Literal["progress", "checkpoint", "beginning"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The record: the cursor after a batch, and what shows whether it can be trusted.

    `checkpoint` names the newest checkpoint when it was written, by a token and not by the
    row's id: a volume that was rolled back gives the same ids out again. `offsets` holds the
    highest acknowledged offset of each partition; `events` counts all since the beginning.
    `anchor` is a row that the database must hold, `topic_id` the id of the event topic, None if
    the brokers gave none; records of version 0.1 have neither.
    """

    system_identifier: str
    database_oid: int
    timeline: str
    checkpoint: str
    s0: str
    s1: str | None
    after: tuple[int, int]
    offsets: dict[int, int]
    events: int
    at: float
    anchor: Anchor | None = None
    topic_id: str | None = None

    @property
    def cursor(self) -> Cursor:
        """The cursor that the record holds."""
        s1 = None if self.s1 is None else Snapshot.parse(self.s1)
        return Cursor(Snapshot.parse(self.s0), s1, self.after)

    def in_database_of(self, place: Place) -> bool:
        """Whether it was written for this database, on whatever timeline."""
        ours = (place.system_identifier, place.database_oid)
        return (self.system_identifier, self.database_oid) == ours


class Held(NamedTuple):
    """What the database holds of that which a record names: its checkpoint, and its anchor."""

    checkpoint: bool
    anchor: bool


class Start(msgspec.Struct, frozen=True):
    """Where to start from, and why there; and how the event topic was."""

    cursor: Cursor
    source: Source
    reason: str
    offsets: dict[int, int]
    events: int = 0
    anchor: Anchor | None = None
    topic_id: str | None = None


def parse(key: bytes | None, value: bytes | None) -> Progress | None:
    """Return the progress record in a Kafka record; None if the record is not one.

    Anybody with the right to write may put other records on the topic. A record counts only if
    Postgres can take its cursor: a snapshot or a position out of range would end each start.
    """
    if key != KEY or value is None:
        return None
    try:
        record = msgspec.json.decode(value, type=Progress)
        snapshots = [each for each in record.cursor[:2] if each is not None]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return record if all(map(_is_possible, snapshots)) and _is_in_range(record) else None


def _is_in_range(record: Progress) -> bool:
    """Whether the numbers are what the worker writes, and the token is one that Postgres takes."""
    return (
        all(0 <= position <= MOST_POSITION for position in record.after)
        and all(0 <= number <= MOST_POSITION for pair in record.offsets.items() for number in pair)
        and 0 <= record.events <= MOST_POSITION
        and 0 <= record.database_oid <= MOST_OID
        and (record.anchor is None or 0 <= record.anchor.position <= MOST_POSITION)
        and "\0" not in record.checkpoint
    )


def _is_possible(snapshot: Snapshot) -> bool:
    """Whether Postgres accepts the snapshot: xids in ascending order between xmin and xmax."""
    xids = snapshot.in_progress
    ascending = all(xid < following for xid, following in pairwise(xids))
    inside = not xids or (snapshot.xmin <= xids[0] and xids[-1] < snapshot.xmax)
    return 0 < snapshot.xmin <= snapshot.xmax <= MOST_XID and ascending and inside


def decide_start(
    record: Progress | None,
    checkpoint: Progress | None,
    place: Place,
    *,
    held: Held,
    read_to_end: bool = True,
) -> Start:
    """Return where to start from; RefusedError where the xids cannot be compared with ours.

    `record` is the last progress record that could be read, `checkpoint` the newest one in the
    database, `held` what the database has of that which the record names. `read_to_end` is False
    if an open transaction of another producer may hide newer records.
    A start from the checkpoint publishes up to 10 s of events a second time, and loses none.
    """
    known = [each for each in (record, checkpoint) if each is not None]
    if not known:
        return Start(BEGINNING, "beginning", "nothing was ever published", {})
    latest = max(known, key=lambda each: each.at)
    ours = checkpoint if checkpoint is not None and checkpoint.in_database_of(place) else None
    reason = _distrust(record, ours, place, held) if read_to_end else HIDDEN
    if record is not None and reason is None:
        # If nothing was published between record and checkpoint, both cover the same events. The
        # checkpoint is then preferred: it is part of the database, so it needs no proof.
        best = ours if ours is not None and ours.events == record.events else record
        return _start(best, "progress", "trusted", latest)
    if ours is not None:
        return _start(ours, "checkpoint", reason or "", latest)
    if record is not None and record.in_database_of(place):  # back to before the first checkpoint
        return Start(
            BEGINNING, "checkpoint", reason or "", latest.offsets, topic_id=latest.topic_id
        )
    message = (
        "this database is a copy or a restore of another one, whose progress cannot be used here; "
        "if the other one no longer runs, run: python -m outbox_worker rebase"
    )
    raise RefusedError(message)


def _start(best: Progress, source: Source, reason: str, latest: Progress) -> Start:
    """Return a start from a record; the event topic is as the latest one says."""
    return Start(
        best.cursor, source, reason, latest.offsets, best.events, best.anchor, latest.topic_id
    )


def _distrust(
    record: Progress | None, ours: Progress | None, place: Place, held: Held
) -> str | None:
    """Return why a record cannot be used, None if it can. `ours`: this database's checkpoint.

    The anchor is needed only if the record is newer than the checkpoint: retention may have removed
    the anchor of an older one.
    """
    if record is None:
        return "the progress topic has no record"
    events = 0 if ours is None else ours.events
    doubts = {
        "the progress record is of another database": not record.in_database_of(place),
        "the database is on another timeline (failover or restore)": (
            record.timeline != place.timeline
        ),
        "the database has gone back in time": not held.checkpoint,
        "the progress record is older than the checkpoint": record.events < events,
        "the database has gone back in time, to before the last published event": (
            record.events > events and not held.anchor
        ),
    }
    return next((reason for reason, doubtful in doubts.items() if doubtful), None)
