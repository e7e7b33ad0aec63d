"""`verify` after a snapshot in the event topic, which replaces what subscribers know."""

import json
from collections.abc import Sequence

from aiokafka import ConsumerRecord

from outbox_worker.kafka.records import partition_of
from outbox_worker.operator.comparison import Checker, OutboxEvent, Report, Share, digest
from tests.support.topic.topics import Record

KEY = b"workspace/doc_1"


def record(event_id: str, kind: str, version: int = 0, snapshot: str | None = None) -> Record:
    """Return a record of the only partition, with a snapshot's headers if one is named."""
    key = KEY if version else b"marker"
    value = json.dumps({"id": event_id, "type": kind, "sequence": f"{version:020}"}).encode()
    headers = (
        [] if snapshot is None else [("snapshot", b"true"), ("snapshot-id", snapshot.encode())]
    )
    return ConsumerRecord(
        topic="topic", partition=0, offset=0, timestamp=0, timestamp_type=0, key=key, value=value,
        checksum=None, serialized_key_size=0, serialized_value_size=0, headers=headers,
    )  # fmt: skip


def live(version: int, event_id: str | None = None) -> Record:
    """Return the record of an event that the relay has published."""
    return record(event_id or f"event {version}", "document.linked", version)


def snapshot(name: str, version: int, *inside: Record, ended: bool = True) -> list[Record]:
    """Return a snapshot with the document at a version, and with live records between its markers."""
    end = [record("end", "snapshot.ended", snapshot=name)] if ended else []
    link = record(f"link {version}", "document.linked", version, name)
    return [record("begin", "snapshot.began", snapshot=name), *inside, link, *end]


def faults(outbox: Sequence[Record], topic: Sequence[Record]) -> dict[str, list[str]]:
    """Return the ids that a comparison of the outbox's events with the topic reports, by fault."""
    known = {
        json.loads(each.value or b"")["id"]: OutboxEvent(position, digest(KEY, each.value or b""))
        for position, each in enumerate(outbox, 1)
    }
    report = Report(None, len(known))
    checker = Checker(known, 1, report, Share(0, 1))
    assert partition_of(KEY, 1) == 0
    for each in topic:
        checker.take(each)
    checker.conclude()
    return {str(fault): ids for fault, ids in report.examples.items()}


def test_a_restored_database_uses_versions_again_after_a_snapshot() -> None:
    """Events from before the snapshot may be repeated after it, and lost versions used again."""
    kept, again, later = live(1), live(2, "again"), live(3)
    topic = [kept, live(2, "lost"), *snapshot("one", 1), kept, again, later]
    assert faults([kept, again, later], topic) == {}


def test_an_interrupted_snapshot_replaces_nothing() -> None:
    """Without the end marker the repeated event and the repeated version are faults."""
    kept, again = live(1), live(2, "again")
    topic = [kept, live(2, "lost"), *snapshot("one", 1, ended=False), kept, again]
    found = {"duplicated": ["event 1"], "out_of_sequence": ["again"]}
    assert faults([kept, again], topic) == found
    assert faults([kept, again], [*topic, *snapshot("two", 2)]) == found


def test_faults_after_a_snapshot_are_reported() -> None:
    """After the snapshot, an event that comes twice and a gap after the snapshot's version are faults."""
    one, three = live(1), live(3)
    topic = [one, *snapshot("one", 1), one, one, three]
    found = {"duplicated": ["event 1"], "out_of_sequence": ["event 3"]}
    assert faults([one, three], topic) == found


def test_records_between_the_markers_count_as_after_the_snapshot() -> None:
    """A live event between the markers is found, and may be newer than the snapshot's version."""
    one, two, three = live(1), live(2), live(3)
    assert faults([one, two, three], [one, *snapshot("one", 1, two), three]) == {}
    assert faults([one, two, three], [one, *snapshot("one", 2, two), three]) == {}
