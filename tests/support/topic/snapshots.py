"""A subscriber of snapshots that keeps its state by partition, as the AsyncAPI document says."""

from collections import defaultdict
from typing import Any

import msgspec

from tests.support.topic import topics

REMOVED = "document.unlinked"
Links = dict[str, set[str]]
"""The ids of each document's active links."""


class Partition:
    """A subscriber's state of one partition: its documents' links and versions."""

    def __init__(self) -> None:
        self.links: Links = {}
        self.versions: dict[str, int] = {}
        self.begun: str | None = None
        self.whole: list[str] = []
        """The snapshots that ended, in order."""
        self._collected: Links = {}
        self._collected_versions: dict[str, int] = {}
        self._held: list[dict[str, Any]] = []

    def apply(self, record: topics.Record) -> None:
        """Apply the next record."""
        headers, event = dict(record.headers), msgspec.json.decode(record.value)
        snapshot = headers.get("snapshot-id", b"").decode()
        if event["type"] == "snapshot.began":
            self.begun, self._collected, self._collected_versions = snapshot, defaultdict(set), {}
        elif snapshot and snapshot != self.begun:
            return
        elif event["type"] == "snapshot.ended":
            self._end(event["data"]["links"])
        elif snapshot:
            key = record.key.decode()
            self._collected[key].add(event["data"]["link"]["id"])
            self._collected_versions[key] = event["data"]["document_version"]
        elif self.begun is not None:
            self._held.append(event)
        else:
            self.change(event)

    def _end(self, count: int) -> None:
        assert sum(map(len, self._collected.values())) == count
        self.links, self.versions = self._collected, self._collected_versions
        assert self.begun is not None
        self.whole.append(self.begun)
        self.begun, held, self._held = None, self._held, []
        for event in held:
            self.change(event)

    def change(self, event: dict[str, Any]) -> None:
        """Apply a live event unless the snapshot contains it."""
        data = event["data"]
        key, version = event["partitionkey"], data["document_version"]
        if version <= self.versions.get(key, 0):
            return
        self.versions[key] = version
        links = self.links.setdefault(key, set())
        if event["type"] == REMOVED:
            links.discard(data["link"]["id"])
        else:
            links.add(data["link"]["id"])


async def read(kafka: str, topic: str) -> dict[int, Partition]:
    """Return a subscriber's state of each partition after it has read the whole topic."""
    partitions: dict[int, Partition] = defaultdict(Partition)
    for record in await topics.read_all(kafka, topic):
        partitions[record.partition].apply(record)
    return partitions


def active(partitions: dict[int, Partition]) -> set[str]:
    """Return the ids of all active links."""
    return {
        link
        for partition in partitions.values()
        for links in partition.links.values()
        for link in links
    }
