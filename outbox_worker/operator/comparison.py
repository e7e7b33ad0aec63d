"""What `verify` finds out about the topic's records, beside the outbox's events."""

from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal, NamedTuple
from zlib import crc32

import msgspec

from outbox_worker.kafka.records import partition_of

EXAMPLES = 10
# Records of these are no events of the relay.
MARKS = {"replay", "snapshot"}

Fault = Literal["missing", "duplicated", "out_of_order", "out_of_sequence", "altered"]


class Known(msgspec.Struct):
    """A published event of the outbox, and whether the topic has it."""

    position: int
    digest: bytes
    seen: bool = False


class Share(NamedTuple):
    """The documents of one reading: those whose key has this remainder."""

    remainder: int
    divisor: int

    def __contains__(self, key: object) -> bool:
        """Whether the document with that key belongs to the share."""
        return isinstance(key, bytes) and crc32(key) % self.divisor == self.remainder


class _Identity(msgspec.Struct):
    """Of an event, only its id and its document's version."""

    id: str
    sequence: str = ""


class Report(msgspec.Struct):
    """What was compared, how many faults of each kind there are, and the first ids of each.

    `since`: the time from which the topic was read, None for its beginning. `not_compared`: the
    records of events that are not among those of the outbox: older, or published meanwhile.
    """

    since: datetime | None
    outbox_events: int
    topic_records: int = 0
    not_compared: int = 0
    faults: dict[Fault, int] = {}
    examples: dict[Fault, list[str]] = {}

    def add(self, fault: Fault, event: str) -> None:
        """Count a fault."""
        self.faults[fault] = self.faults.get(fault, 0) + 1
        if len(ids := self.examples.setdefault(fault, [])) < EXAMPLES:
            ids.append(event)


class Checker:
    """Takes the topic's records, those of each partition in order; reports on those of its share."""

    def __init__(
        self, known: dict[str, Known], partitions: int, report: Report, share: Share
    ) -> None:
        self._known = known
        self._partitions = partitions
        self._share = share
        self._positions: dict[bytes, int] = {}
        self._versions: dict[bytes, int] = {}
        self._report = report

    def take(self, record: Any) -> None:  # noqa: ANN401 - aiokafka has no types
        """Look at one record."""
        key = record.key or b""
        if key not in self._share or MARKS & {name for name, _ in record.headers}:
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
        """See that a document's version is one more than the last; the first may be any."""
        if event.sequence.isdecimal():
            version = int(event.sequence)
            if version != self._versions.get(key, version - 1) + 1:
                self._report.add("out_of_sequence", event.id)
            self._versions[key] = version

    def _compare(self, record: Any, key: bytes, event: str, known: Known) -> None:  # noqa: ANN401
        misplaced = record.partition != partition_of(key, self._partitions)
        if misplaced or known.digest != digest(key, record.value):
            self._report.add("altered", event)
        last = self._positions.get(key, 0)
        if known.position < last:
            self._report.add("out_of_order", event)
        self._positions[key] = max(known.position, last)

    def conclude(self) -> None:
        """Report what is missing, once every record was taken."""
        for event, known in self._known.items():
            if not known.seen:
                self._report.add("missing", event)


def digest(key: bytes, value: bytes) -> bytes:
    """Return what a record is compared by: its key and its value."""
    return blake2b(b"%d %b%b" % (len(key), key, value), digest_size=16).digest()


def _identity(value: bytes) -> _Identity:
    """Return what tells an event; where a value is no event, something that no event has."""
    try:
        return msgspec.json.decode(value, type=_Identity)
    except msgspec.DecodeError:
        return _Identity(f"not an event: {blake2b(value, digest_size=8).hexdigest()}")
