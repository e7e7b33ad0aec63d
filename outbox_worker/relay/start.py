"""Decides where a leader starts from: a pure function of the table in the package's docstring."""

from typing import Literal, NamedTuple

import msgspec

from outbox_worker.postgres.cursor import BEGINNING, Anchor, Cursor
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import ClusterIdentity, RefusedError

HIDDEN = "another producer's open transaction hides the end of the progress topic"

Source = Literal["progress", "checkpoint", "beginning"]


class Evidence(NamedTuple):
    """Whether the database has the checkpoint and the anchor that a progress record names."""

    checkpoint: bool
    anchor: bool


class Start(msgspec.Struct, frozen=True):
    """The cursor to start from and the reason, and the event topic's id and offsets in the last record."""

    cursor: Cursor
    source: Source
    reason: str
    offsets: dict[int, int]
    events: int = 0
    anchor: Anchor | None = None
    topic_id: str | None = None


def decide_start(
    record: Progress | None,
    checkpoint: Progress | None,
    cluster: ClusterIdentity,
    *,
    evidence: Evidence,
    read_to_end: bool = True,
) -> Start:
    """Return where to start from.

    Args:
        record: the last progress record that could be read from Kafka.
        checkpoint: the newest checkpoint in the database.
        cluster: the database's cluster and timeline.
        evidence: whether the database has the checkpoint and the anchor that the record names.
        read_to_end: False if an open transaction of another producer may hide newer records.

    Raises:
        RefusedError: the xids are those of another cluster, so they cannot be compared.
    """
    known = [each for each in (record, checkpoint) if each is not None]
    if not known:
        return Start(BEGINNING, "beginning", "nothing was ever published", {})
    latest = max(known, key=lambda each: each.at)
    own = checkpoint if checkpoint is not None and checkpoint.in_database_of(cluster) else None
    reason = _distrust(record, own, cluster, evidence) if read_to_end else HIDDEN
    if record is not None and reason is None:
        # If nothing was published between record and checkpoint, both cover the same events. The
        # checkpoint is then preferred: it is part of the database, so it needs no proof.
        best = own if own is not None and own.events == record.events else record
        return _start(best, "progress", "trusted", latest)
    if own is not None:
        return _start(own, "checkpoint", reason or "", latest)
    if record is not None and record.in_database_of(cluster):  # from before the first checkpoint
        return Start(
            BEGINNING, "checkpoint", reason or "", latest.offsets, topic_id=latest.topic_id
        )
    message = (
        "this database is a copy or a restore of another one, whose progress cannot be used here; "
        "if the other one no longer runs, run: python -m outbox_worker rebase"
    )
    raise RefusedError(message)


def _start(best: Progress, source: Source, reason: str, latest: Progress) -> Start:
    """Return a start from the best record; the event topic's id and offsets are those of the latest."""
    return Start(
        best.cursor, source, reason, latest.offsets, best.events, best.anchor, latest.topic_id
    )


def _distrust(
    record: Progress | None, own: Progress | None, cluster: ClusterIdentity, evidence: Evidence
) -> str | None:
    """Return why a record cannot be used, None if it can. `own`: this database's checkpoint.

    The anchor is needed only if the record is newer than the checkpoint: retention may have removed
    the anchor of an older one.
    """
    if record is None:
        return "the progress topic has no record"
    events = 0 if own is None else own.events
    doubts = {
        "the progress record is of another database": not record.in_database_of(cluster),
        "the database is on another timeline (failover or restore)": (
            record.timeline != cluster.timeline
        ),
        "the database has gone back in time": not evidence.checkpoint,
        "the progress record is older than the checkpoint": record.events < events,
        "the database has gone back in time, to before the last published event": (
            record.events > events and not evidence.anchor
        ),
    }
    return next((reason for reason, doubtful in doubts.items() if doubtful), None)
