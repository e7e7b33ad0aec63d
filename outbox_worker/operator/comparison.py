"""Compares the records of the topic with the events of the outbox, for `verify`."""

from collections import defaultdict
from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal, NamedTuple
from zlib import crc32

import msgspec

from outbox_worker.kafka.records import partition_of
from outbox_worker.operator.snapshot_events import BEGAN, ENDED, ID_HEADER

EXAMPLES = 10
# Headers of records that an operator has published; the relay adds none of them.
REPUBLISHED_HEADERS = {"replay", "snapshot"}

Fault = Literal["missing", "duplicated", "out_of_order", "out_of_sequence", "altered"]


class OutboxEvent(msgspec.Struct):
    """A published event of the outbox.

    `seen`: how many whole snapshots precede its last record in the topic; None: no record was found.
    """

    position: int
    digest: bytes
    seen: int | None = None


class Share(NamedTuple):
    """The documents that are compared in one pass: the hash of their keys has this remainder."""

    remainder: int
    divisor: int

    def __contains__(self, key: object) -> bool:
        """Whether the document with this key belongs to the share."""
        return isinstance(key, bytes) and crc32(key) % self.divisor == self.remainder


class _Identity(msgspec.Struct):
    """The fields of an event that are compared: its id, its type, and the version of its document."""

    id: str
    type: str = ""
    sequence: str = ""


class Report(msgspec.Struct):
    """The numbers of events, records and faults, with the ids of the first faults of each kind.

    `since`: the time from which the topic was read, None for its beginning. `not_compared`: the number
    of records whose events are not in the outbox, or were published after the comparison began.
    """

    since: datetime | None
    outbox_events: int
    topic_records: int = 0
    not_compared: int = 0
    faults: dict[Fault, int] = {}
    examples: dict[Fault, list[str]] = {}

    def add(self, fault: Fault, event: str) -> None:
        """Count a fault, and keep the first ids."""
        self.faults[fault] = self.faults.get(fault, 0) + 1
        if len(ids := self.examples.setdefault(fault, [])) < EXAMPLES:
            ids.append(event)


class _Snapshot(msgspec.Struct):
    """A snapshot whose end marker was not read yet, and the live records since its first marker."""

    id: bytes
    versions: dict[bytes, int] = {}
    held: list[Any] = []


class _Partition(msgspec.Struct):
    """What a subscriber of a partition knows: the version and position of each document.

    `snapshots` counts the whole snapshots so far. Each of them replaces the versions and positions.
    """

    versions: dict[bytes, int] = {}
    positions: dict[bytes, int] = {}
    included: dict[bytes, int] = {}
    snapshots: int = 0
    open: _Snapshot | None = None


class Checker:
    """Compares the records of one share of the documents; it takes those of each partition in order.

    A snapshot in the event topic replaces what subscribers know. So a version may be used again after
    it, and an event from before it may be repeated: subscribers skip it if the snapshot includes it.
    """

    def __init__(
        self, known: dict[str, OutboxEvent], partitions: int, report: Report, share: Share
    ) -> None:
        self._known = known
        self._partitions = partitions
        self._share = share
        self._state: defaultdict[int, _Partition] = defaultdict(_Partition)
        self._report = report

    def take(self, record: Any) -> None:  # noqa: ANN401 - aiokafka has no types
        """Compare one record. Records between a snapshot's markers are compared at its end."""
        headers, state = dict(record.headers), self._state[record.partition]
        if ID_HEADER in headers:
            self._take_snapshot(record, headers[ID_HEADER], state)
        elif (record.key or b"") in self._share and REPUBLISHED_HEADERS.isdisjoint(headers):
            if state.open is None:
                self._take_live(record, state)
            else:
                state.open.held.append(record)

    def _take_snapshot(self, record: Any, snapshot: bytes, state: _Partition) -> None:  # noqa: ANN401
        event = _identity(record.value)
        if event.type == BEGAN:
            self._release(state)
            state.open = _Snapshot(snapshot)
        elif state.open is None or state.open.id != snapshot:
            return
        elif event.type == ENDED:
            state.versions, state.positions = {}, {}
            state.included = state.open.versions
            state.snapshots += 1
            self._release(state)
        elif record.key in self._share:
            state.open.versions[record.key] = int(event.sequence)

    def _release(self, state: _Partition) -> None:
        """Compare the records that were held during a snapshot, whether it has ended or not."""
        held = [] if state.open is None else state.open.held
        state.open = None
        for record in held:
            self._take_live(record, state)

    def _take_live(self, record: Any, state: _Partition) -> None:  # noqa: ANN401
        key = record.key or b""
        self._report.topic_records += 1
        event = _identity(record.value)
        known = self._known.get(event.id)
        if known is not None and known.seen == state.snapshots:
            self._report.add("duplicated", event.id)
            return
        self._follow(key, event, state)
        if known is None:
            self._report.not_compared += 1
        else:
            known.seen = state.snapshots
            self._compare(record, key, event.id, known)

    def _follow(self, key: bytes, event: _Identity, state: _Partition) -> None:
        """Report a version that does not follow the document's last one.

        The first version may be any, unless a snapshot has the document: versions up to the
        snapshot's are skipped, and the next one follows it.
        """
        if event.sequence.isdecimal():
            version, included = int(event.sequence), state.included.get(key, 0)
            if version <= included:
                return
            last = state.versions.get(key, included or version - 1)
            if version != last + 1:
                self._report.add("out_of_sequence", event.id)
            state.versions[key] = version

    def _compare(self, record: Any, key: bytes, event: str, known: OutboxEvent) -> None:  # noqa: ANN401
        misplaced = record.partition != partition_of(key, self._partitions)
        if misplaced or known.digest != digest(key, record.value):
            self._report.add("altered", event)
        positions = self._state[record.partition].positions
        last = positions.get(key, 0)
        if known.position < last:
            self._report.add("out_of_order", event)
        positions[key] = max(known.position, last)

    def conclude(self) -> None:
        """Report the events without a record, after the last record."""
        for state in self._state.values():
            self._release(state)
        for event, known in self._known.items():
            if known.seen is None:
                self._report.add("missing", event)


def digest(key: bytes, value: bytes) -> bytes:
    """Return a digest of a record's key and value."""
    return blake2b(b"%d %b%b" % (len(key), key, value), digest_size=16).digest()


def _identity(value: bytes) -> _Identity:
    """Return an event's id and version; for a value that is no event, an id that no event has."""
    try:
        return msgspec.json.decode(value, type=_Identity)
    except msgspec.DecodeError:
        return _Identity(f"not an event: {blake2b(value, digest_size=8).hexdigest()}")
