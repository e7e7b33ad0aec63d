"""Compares the records of the topic with the events of the outbox, for `verify`."""

from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal, NamedTuple
from zlib import crc32

import msgspec

from outbox_worker.kafka.records import partition_of

EXAMPLES = 10
# Headers of records that an operator has published; the relay adds none of them.
REPUBLISHED_HEADERS = {"replay", "snapshot"}

Fault = Literal["missing", "duplicated", "out_of_order", "out_of_sequence", "altered"]


class OutboxEvent(msgspec.Struct):
    """A published event of the outbox, and whether a record of the topic was found for it."""

    position: int
    digest: bytes
    seen: bool = False


class Share(NamedTuple):
    """The documents that are compared in one pass: the hash of their keys has this remainder."""

    remainder: int
    divisor: int

    def __contains__(self, key: object) -> bool:
        """Whether the document with this key belongs to the share."""
        return isinstance(key, bytes) and crc32(key) % self.divisor == self.remainder


class _Identity(msgspec.Struct):
    """The fields of an event that are compared: its id, and the version of its document."""

    id: str
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


class Checker:
    """Compares the records of one share of the documents; it takes those of each partition in order."""

    def __init__(
        self, known: dict[str, OutboxEvent], partitions: int, report: Report, share: Share
    ) -> None:
        self._known = known
        self._partitions = partitions
        self._share = share
        self._positions: dict[bytes, int] = {}
        self._versions: dict[bytes, int] = {}
        self._report = report

    def take(self, record: Any) -> None:  # noqa: ANN401 - aiokafka has no types
        """Compare one record."""
        key = record.key or b""
        if key not in self._share or REPUBLISHED_HEADERS & {name for name, _ in record.headers}:
            return
        self._report.topic_records += 1
        event = _identity(record.value)
        known = self._known.get(event.id)
        if known is not None and known.seen:
            self._report.add("duplicated", event.id)
            return
        self._follow(key, event)
        if known is None:
            self._report.not_compared += 1
        else:
            known.seen = True
            self._compare(record, key, event.id, known)

    def _follow(self, key: bytes, event: _Identity) -> None:
        """Report a version that does not follow the document's last one; its first version may be any."""
        if event.sequence.isdecimal():
            version = int(event.sequence)
            if version != self._versions.get(key, version - 1) + 1:
                self._report.add("out_of_sequence", event.id)
            self._versions[key] = version

    def _compare(self, record: Any, key: bytes, event: str, known: OutboxEvent) -> None:  # noqa: ANN401
        misplaced = record.partition != partition_of(key, self._partitions)
        if misplaced or known.digest != digest(key, record.value):
            self._report.add("altered", event)
        last = self._positions.get(key, 0)
        if known.position < last:
            self._report.add("out_of_order", event)
        self._positions[key] = max(known.position, last)

    def conclude(self) -> None:
        """Report the events without a record, after the last record."""
        for event, known in self._known.items():
            if not known.seen:
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
