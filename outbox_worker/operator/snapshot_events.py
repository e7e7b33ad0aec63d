"""The records of a snapshot: one event for each active link, between two markers."""

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import asyncpg
import msgspec

SNAPSHOT: Final = "snapshot"
"""The header of each record, and the actor and the request id of each event."""
ID_HEADER = "snapshot-id"
LINKED = "document.linked"
BEGAN = "snapshot.began"
ENDED = "snapshot.ended"
# The namespace of event ids. A link's event has the same id in each snapshot, as long as the version of its
# document is the same.
LINKS = UUID("6ba9b1f5-6b0f-4d6d-9a0c-5b1f6c1f7a52")

Row = tuple[int, str, bytes, None]
"""The columns of a page's rows: position, key, payload, traceparent."""


class Identity(NamedTuple):
    """The id of a snapshot, and the time at which it began (ISO 8601, UTC)."""

    id: str
    began_at: str

    @classmethod
    def new(cls) -> Self:
        """Return the identity of a snapshot that begins now."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        return cls(str(uuid4()), now.replace("+00:00", "Z"))

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """The headers of every record of the snapshot."""
        return [(SNAPSHOT, b"true"), (ID_HEADER, self.id.encode())]

    def link(self, row: asyncpg.Record) -> Row:
        """Return a link's event as a row of the outbox, as if the snapshot had made the link."""
        workspace, document, version, link, entity_type, entity_id, role, created_at = row
        key = f"{workspace}/{document}"
        data = {
            "workspace_id": workspace,
            "document_id": document,
            "document_version": version,
            "link": {
                "id": link,
                "resource": {"id": entity_id, "type": entity_type},
                "role": role,
                "created_at": created_at,
                "deleted_at": None,
            },
            "previous": None,
            "cause": "link",
            "actor": SNAPSHOT,
            "request_id": SNAPSHOT,
        }
        event = {
            **self._attributes(LINKED, str(uuid5(LINKS, f"{link}/{version}"))),
            "source": f"/workspaces/{workspace}",
            "subject": document,
            "partitionkey": key,
            "sequence": f"{version:020}",
            "data": data,
        }
        return 0, key, msgspec.json.encode(event), None

    def began(self, partition: int, live_topic: str, continue_from: dict[int, int]) -> bytes:
        """Return the first record of a partition, with the offsets at which the live topic continues."""
        return self._marker(
            BEGAN, partition, {"live_topic": live_topic, "continue_from": continue_from}
        )

    def ended(self, partition: int, links: int) -> bytes:
        """Return the last record of a partition, with the number of events between the two markers."""
        return self._marker(ENDED, partition, {"links": links})

    def _marker(self, kind: str, partition: int, details: dict[str, Any]) -> bytes:
        event = {
            **self._attributes(kind, str(uuid5(NAMESPACE_URL, f"{self.id}/{partition}/{kind}"))),
            "source": f"/snapshots/{self.id}",
            "subject": self.id,
            "partitionkey": self.id,
            "data": {"snapshot_id": self.id, "partition": partition, **details},
        }
        return msgspec.json.encode(event)

    def _attributes(self, kind: str, event_id: str) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": event_id,
            "type": kind,
            "time": self.began_at,
            "datacontenttype": "application/json",
            "dataschema": f"urn:document-links:{kind}:1",
        }
