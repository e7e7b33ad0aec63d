"""The progress record: the cursor, and the evidence that it is valid.

It is a record on the progress topic in Kafka, and a row of outbox_checkpoints in the database.
"""

from typing import Self

import msgspec

from outbox_worker.postgres.cursor import NO_ROWS_AFTER, Anchor, Cursor, Snapshot
from outbox_worker.postgres.registration import ClusterIdentity

MAX_BIGINT = NO_ROWS_AFTER
MAX_OID = 2**32 - 1


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The cursor after a page.

    `checkpoint` is the token of the newest checkpoint when the record was written. It is a token and
    not the row's id, because a volume that was restored gives the same ids out again. `offsets`
    has the highest acknowledged offset of each partition before the page. `events` counts all
    events since the beginning. `anchor` is a row that the database must hold. `topic_id` is the id
    of the event topic, None if the brokers are too old to tell it. Records of version 0.1 have
    neither an anchor nor a topic id.
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

    @classmethod
    def parse(cls, text: bytes) -> Self | None:
        """Return the record in a JSON text; None if the text is not a record.

        Other programs may be able to write to the progress topic. A text is a record only if
        Postgres accepts its values as parameters. Otherwise every start of the worker would fail.
        """
        try:
            record = msgspec.json.decode(text, type=cls)
            snapshots = [each for each in record.cursor[:2] if each is not None]
        except (ValueError, RecursionError):
            return None
        valid = all(each.is_valid() for each in snapshots) and _is_in_range(record)
        return record if valid else None

    @property
    def cursor(self) -> Cursor:
        """The cursor that the record holds."""
        s1 = None if self.s1 is None else Snapshot.parse(self.s1)
        return Cursor(Snapshot.parse(self.s0), s1, self.after)

    def in_database_of(self, cluster: ClusterIdentity) -> bool:
        """Whether the record is of this database, on any timeline."""
        database = (cluster.system_identifier, cluster.database_oid)
        return (self.system_identifier, self.database_oid) == database


def _is_in_range(record: Progress) -> bool:
    """Whether Postgres accepts the numbers and the token."""
    return (
        all(0 <= position <= MAX_BIGINT for position in record.after)
        and all(0 <= number <= MAX_BIGINT for pair in record.offsets.items() for number in pair)
        and 0 <= record.events <= MAX_BIGINT
        and 0 <= record.database_oid <= MAX_OID
        and (record.anchor is None or 0 <= record.anchor.position <= MAX_BIGINT)
        and "\0" not in record.checkpoint
    )
