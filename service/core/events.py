"""Events as subscribers get them: CloudEvents 1.0, structured mode, in JSON."""

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from service.core.ids import ID_PATTERN, IdSource
from service.core.values import Caller, Cause, LinkRow

EventType = Literal[
    "document.linked", "document.unlinked", "document.restored", "document.link_updated"
]
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]

_UUID: Final = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
Source = Annotated[str, Meta(pattern=f"^/workspaces/{_UUID}$")]
Key = Annotated[str, Meta(pattern=f"^{_UUID}/{ID_PATTERN.removeprefix('^')}")]
Sequence = Annotated[str, Meta(pattern="^[0-9]{20}$")]
Traceparent = Annotated[str, Meta(pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]

DATASCHEMA_OF: Final[dict[EventType, str]] = {
    event_type: f"urn:document-links:{event_type}:1" for event_type in get_args(EventType)
}
"""The `$id` of each type's JSON Schema; a change that breaks subscribers increases its number."""

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"


class EventResource(Struct, frozen=True):
    """The entity at the other end of the link."""

    id: str
    type: str


class EventLink(Struct, frozen=True):
    """The link as it is after the change."""

    id: Uuid
    resource: EventResource
    role: str | None
    created_at: Timestamp
    deleted_at: Timestamp | None


class Previous(Struct, frozen=True):
    """What the change replaced."""

    role: str | None
    deleted_at: Timestamp | None


class EventData(Struct, frozen=True):
    """What happened to which link, and who did it; `previous` is null for a link's first event."""

    workspace_id: Uuid
    document_id: str
    document_version: int
    link: EventLink
    previous: Previous | None
    cause: Cause
    actor: str
    request_id: str


class Event(Struct, frozen=True):
    """One link event (CloudEvents 1.0, with the extensions partitioning, sequence and tracing)."""

    specversion: Literal["1.0"]
    id: Uuid
    source: Source
    type: EventType
    subject: str
    time: Timestamp
    datacontenttype: Literal["application/json"]
    dataschema: str
    partitionkey: Key
    sequence: Sequence
    data: EventData
    traceparent: Traceparent | UnsetType = UNSET


class OutboxRow(NamedTuple):
    """A new row of the outbox; `payload` is the value of the Kafka message, byte for byte."""

    event_id: str
    event_type: EventType
    key: str
    payload: bytes
    traceparent: str | None


_encode: Final = msgspec.json.Encoder().encode


class EventMaker(Struct, frozen=True):
    """Makes the events of one write: ids, and what all its events have in common.

    `now` is the time of the transaction, `now_us` the same in microseconds since 1970.
    """

    caller: Caller
    cause: Cause
    ids: IdSource
    now: datetime
    now_us: int

    def make(
        self, event_type: EventType, link: LinkRow, before: LinkRow | None, version: int
    ) -> OutboxRow:
        """Return the outbox row of a changed link's event.

        `before` is the link before the change, None for a new one. `version` is the document's new version.
        """
        workspace_id, document_id = link.key.document
        caller = self.caller
        event_id = self.ids.uuid7_text(self.now_us)
        key = f"{workspace_id}/{document_id}"
        event = Event(
            specversion="1.0",
            id=event_id,
            source=f"/workspaces/{workspace_id}",
            type=event_type,
            subject=document_id,
            time=timestamp(self.now),
            datacontenttype="application/json",
            dataschema=DATASCHEMA_OF[event_type],
            partitionkey=key,
            sequence=f"{version:020d}",
            data=EventData(
                workspace_id,
                document_id,
                version,
                event_link(link),
                None if before is None else _previous(before),
                self.cause,
                caller.actor,
                caller.request_id,
            ),
            traceparent=caller.traceparent or UNSET,
        )
        return OutboxRow(event_id, event_type, key, _encode(event), caller.traceparent)


def _previous(before: LinkRow) -> Previous:
    return Previous(before.role, optional_timestamp(before.deleted_at))


def event_link(link: LinkRow) -> EventLink:
    """Return the link as events show it."""
    return EventLink(
        str(link.id),
        EventResource(link.key.entity.id, link.key.entity.type),
        link.role,
        timestamp(link.created_at),
        optional_timestamp(link.deleted_at),
    )


@lru_cache(maxsize=256)  # the rows of one transaction have the same time
def timestamp(time: datetime) -> str:
    """Return the time, which must be in UTC, in ISO 8601 with microseconds."""
    return time.isoformat(timespec="microseconds")[:26] + "Z"


def optional_timestamp(time: datetime | None) -> str | None:
    """Return the `timestamp` of the time; None for None."""
    return None if time is None else timestamp(time)
