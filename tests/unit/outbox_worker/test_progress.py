"""Where to start from, line by line of the table, and what a snapshot is clipped to."""

import msgspec
import pytest

from outbox_worker.progress import Progress, decide_start
from outbox_worker.registration import Place, RefusedError
from outbox_worker.window import BEGINNING, Snapshot

HERE = Place("7001", 16_384, "00000001")
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
FOREIGN = msgspec.structs.replace(RECORD, system_identifier="7002")


def test_trusted_record_is_where_to_go_on() -> None:
    """A record of this cluster, database and timeline, whose checkpoint is there, is exact."""
    start = decide_start(RECORD, CHECKPOINT, HERE, record_checkpoint_known=True)
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
    """Without a record to trust, the newest checkpoint of this database is where to start."""
    start = decide_start(record, CHECKPOINT, HERE, record_checkpoint_known=known)
    assert (start.source, start.cursor) == ("checkpoint", CHECKPOINT.cursor)
    assert reason in start.reason


def test_beginning_where_neither_has_ever_been() -> None:
    """A relay that never published begins with the first row."""
    start = decide_start(None, None, HERE, record_checkpoint_known=False)
    assert (start.source, start.cursor) == ("beginning", BEGINNING)


@pytest.mark.parametrize("change", [{"system_identifier": "7002"}, {"database_oid": 5}])
@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_another_databases_progress_is_refused(
    change: dict[str, object], *, with_checkpoint: bool
) -> None:
    """A dump, a template's copy or an upgrade cannot go on from xids of the original."""
    record = msgspec.structs.replace(RECORD, **change)
    checkpoint = msgspec.structs.replace(CHECKPOINT, **change) if with_checkpoint else None
    with pytest.raises(RefusedError, match="rebase"):
        decide_start(record, checkpoint, HERE, record_checkpoint_known=True)


def test_record_survives_its_own_json() -> None:
    """What is written to the progress topic is read back as it was."""
    record = msgspec.structs.replace(RECORD, s1="100:110:", after=(2**63 - 1, 7))
    assert msgspec.json.decode(msgspec.json.encode(record), type=Progress) == record


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
    """Nothing at or above the bound is named, and the bound never grows."""
    assert str(Snapshot.parse(snapshot).clipped(xmax)) == clipped
