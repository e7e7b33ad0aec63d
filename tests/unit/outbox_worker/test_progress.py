"""The start of a leader, row by row of the table; the progress record; clipped snapshots."""

import msgspec
import pytest

from outbox_worker.kafka.progress_topic import parse
from outbox_worker.kafka.records import PROGRESS_KEY as KEY
from outbox_worker.postgres.cursor import BEGINNING, Snapshot
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import ClusterIdentity, RefusedError
from outbox_worker.relay.start import Evidence, decide_start

HERE = ClusterIdentity("7001", 16_384, "00000001")
RECORD = Progress(
    system_identifier="7001",
    database_oid=16_384,
    timeline="00000001",
    checkpoint="abc",
    s0="100:105:100,103",
    s1=None,
    after=(0, 0),
    offsets={0: 41},
    events=1_000,
    at=0.0,
)
CHECKPOINT = msgspec.structs.replace(RECORD, s0="90:90:", events=900)
HELD = Evidence(checkpoint=True, anchor=True)
FOREIGN = msgspec.structs.replace(RECORD, system_identifier="7002")


def test_trusted_record_is_the_start() -> None:
    """A leader starts from a record of this cluster, database and timeline, whose checkpoint exists."""
    start = decide_start(RECORD, CHECKPOINT, HERE, evidence=HELD)
    assert (start.source, start.cursor.s0) == ("progress", Snapshot(100, 105, (100, 103)))
    assert (start.offsets, start.events) == ({0: 41}, 1_000)


@pytest.mark.parametrize(
    ("record", "known", "reason"),
    [
        (None, False, "no record"),
        (msgspec.structs.replace(RECORD, timeline="00000002"), True, "timeline"),
        (RECORD, False, "gone back in time"),
        (FOREIGN, True, "another database"),
    ],
)
def test_checkpoint_is_the_second_choice(
    record: Progress | None, reason: str, *, known: bool
) -> None:
    """Without a trusted record, a leader starts from the newest checkpoint of this database."""
    start = decide_start(record, CHECKPOINT, HERE, evidence=Evidence(known, anchor=True))
    assert (start.source, start.cursor) == ("checkpoint", CHECKPOINT.cursor)
    assert reason in start.reason


def test_stale_record_gives_way_to_the_checkpoint() -> None:
    """A record that is older than the newest checkpoint is not used: it would repeat events."""
    later = msgspec.structs.replace(RECORD, checkpoint="def", s0="120:120:", events=1_001)
    start = decide_start(RECORD, later, HERE, evidence=HELD)
    assert (start.source, start.cursor, start.events) == ("checkpoint", later.cursor, 1_001)
    assert "older than the checkpoint" in start.reason


def test_record_newer_than_the_checkpoint_is_not_stale() -> None:
    """A leader starts from a record that counts more events than the newest checkpoint."""
    newest = msgspec.structs.replace(CHECKPOINT, checkpoint="def", events=990)
    start = decide_start(RECORD, newest, HERE, evidence=HELD)
    assert (start.source, start.cursor) == ("progress", RECORD.cursor)


@pytest.mark.parametrize("anchor", [True, False])
def test_checkpoint_of_the_same_event_is_preferred(*, anchor: bool) -> None:
    """The checkpoint is used if no event was published after it; retention may have removed the anchor."""
    newest = msgspec.structs.replace(CHECKPOINT, checkpoint="def", events=1_000)
    start = decide_start(RECORD, newest, HERE, evidence=Evidence(checkpoint=True, anchor=anchor))
    assert (start.source, start.cursor) == ("progress", newest.cursor)


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, None])
def test_record_ahead_of_the_database_is_not_trusted(checkpoint: Progress | None) -> None:
    """A database that has the record's checkpoint but not its anchor has gone back in time."""
    start = decide_start(RECORD, checkpoint, HERE, evidence=Evidence(checkpoint=True, anchor=False))
    expected = BEGINNING if checkpoint is None else checkpoint.cursor
    assert (start.source, start.cursor) == ("checkpoint", expected)
    assert "before the last published event" in start.reason


def test_progress_topic_without_a_record_was_lost() -> None:
    """Each start writes a record: without one, the topic was lost and the checkpoint is used."""
    first = msgspec.structs.replace(CHECKPOINT, events=0)
    start = decide_start(None, first, HERE, evidence=Evidence(checkpoint=False, anchor=False))
    assert (start.source, start.cursor) == ("checkpoint", first.cursor)


@pytest.mark.parametrize("record", [RECORD, None, FOREIGN])
def test_hidden_end_of_the_topic_is_not_trusted(record: Progress | None) -> None:
    """If an open transaction may hide newer records, a leader starts from the checkpoint."""
    start = decide_start(record, CHECKPOINT, HERE, evidence=HELD, read_to_end=False)
    assert (start.source, start.cursor) == ("checkpoint", CHECKPOINT.cursor)
    assert "transaction" in start.reason


def test_beginning_without_record_and_checkpoint() -> None:
    """A relay that has never published starts from the beginning."""
    start = decide_start(None, None, HERE, evidence=Evidence(checkpoint=False, anchor=False))
    assert (start.source, start.cursor) == ("beginning", BEGINNING)


@pytest.mark.parametrize("change", [{"system_identifier": "7002"}, {"database_oid": 5}])
@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_another_databases_progress_is_refused(
    change: dict[str, object], *, with_checkpoint: bool
) -> None:
    """A dump, a copy of a template or an upgrade cannot use the xids of the original."""
    record = msgspec.structs.replace(RECORD, **change)
    checkpoint = msgspec.structs.replace(CHECKPOINT, **change) if with_checkpoint else None
    with pytest.raises(RefusedError, match="rebase"):
        decide_start(record, checkpoint, HERE, evidence=HELD)


def test_record_is_the_same_after_json() -> None:
    """A record is the same after it was written to JSON and parsed."""
    record = msgspec.structs.replace(RECORD, s1="100:110:", after=(2**63 - 1, 7))
    assert parse(KEY, msgspec.json.encode(record)) == record


def changed(**fields: object) -> bytes:
    """Return a record's JSON with other fields."""
    return msgspec.json.encode(msgspec.to_builtins(RECORD) | fields)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, msgspec.json.encode(RECORD)),
        (b"other", msgspec.json.encode(RECORD)),
        (KEY, None),
        (KEY, b""),
        (KEY, b"not JSON"),
        (KEY, b"null"),
        (KEY, b"[]"),
        (KEY, b"{}"),
        (KEY, b"\x00\x1b[2J"),
        (KEY, b'"\xff\xfe"'),
        (KEY, b"[" * 100_000),
        (KEY, changed(s0="nonsense")),
        (KEY, changed(s0="1:2")),
        (KEY, changed(s0="0:5:")),
        (KEY, changed(s0="-5:5:")),
        (KEY, changed(s0="9:5:")),
        (KEY, changed(s0="1:18446744073709551616:")),
        (KEY, changed(s0="1:9:7,5")),
        (KEY, changed(s0="1:9:5,5")),
        (KEY, changed(s0="3:9:2")),
        (KEY, changed(s0="3:9:9")),
        (KEY, changed(s0="1:" + "9" * 5_000 + ":")),
        (KEY, changed(s1="")),
        (KEY, changed(after=[-1, 0])),
        (KEY, changed(after=[0, 2**63])),
        (KEY, changed(after=[0])),
        (KEY, changed(offsets={"0": -1})),
        (KEY, changed(offsets={"x": 1})),
        (KEY, changed(events="many")),
        (KEY, changed(events=-1)),
        (KEY, changed(checkpoint="\x00")),
        (KEY, changed(checkpoint=None)),
        (KEY, changed(database_oid=2**40)),
        (KEY, changed(at=None)),
    ],
)
def test_stray_record_is_no_progress(key: bytes | None, value: bytes | None) -> None:
    """A Kafka record with values that Postgres or the worker cannot use is no progress record."""
    assert parse(key, value) is None


@pytest.mark.parametrize(
    ("snapshot", "xmax", "clipped"),
    [
        ("100:110:100,105", 106, "100:106:100,105"),
        ("100:110:100,105", 105, "100:105:100"),
        ("100:110:100,105", 100, "100:100:"),
        ("100:110:100,105", 200, "100:110:100,105"),
        ("1:1:", 1, "1:1:"),
    ],
)
def test_clipped_snapshot_ends_at_the_bound(snapshot: str, xmax: int, clipped: str) -> None:
    """A clipped snapshot has no xid at or above the bound, and its xmax never grows."""
    assert str(Snapshot.parse(snapshot).clipped(xmax)) == clipped
