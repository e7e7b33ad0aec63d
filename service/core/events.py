"""Events as subscribers get them: CloudEvents 1.0, structured mode, in JSON."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from random import SystemRandom
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
_HEX: Final = "[0-9a-f]"


def _text(pattern: str, description: str) -> Meta:
    return Meta(pattern=pattern, description=description)


def _says(description: str) -> Meta:
    return Meta(description=description)


Source = Annotated[
    str,
    _text(f"^/workspaces/{_UUID}$", "The document's workspace, as `/workspaces/{workspace_id}`."),
]
Key = Annotated[
    str,
    _text(
        f"^{_UUID}/{ID_PATTERN.removeprefix('^')}",
        "The record's key, `{workspace_id}/{document_id}`. All events of a document have one key, so "
        "they are in one partition.",
    ),
]
Sequence = Annotated[
    str, _text("^[0-9]{20}$", "`document_version` in 20 digits, so that it sorts as a text.")
]
Traceparent = Annotated[
    str,
    _text(
        f"^{_HEX}{{2}}-{_HEX}{{32}}-{_HEX}{{16}}-{_HEX}{{2}}$",
        "The context of the call in its trace (W3C Trace Context): of the service's span if it exports "
        "traces, otherwise the `traceparent` that the caller sent. Absent if there is none.",
    ),
]
Tracestate = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        description="The `tracestate` that belongs to the `traceparent`: what tracing systems add to it. "
        "Absent if there is none.",
    ),
]

DATASCHEMA_OF: Final[dict[EventType, str]] = {
    event_type: f"urn:document-links:{event_type}:1" for event_type in get_args(EventType)
}
"""The `$id` of each type's JSON Schema; a change that breaks subscribers increases its number."""

ID_START: Final = 19
"""The characters of a UUIDv7 that are made of its time, with the hyphen after them."""
SECONDS: Final = 4_000 * 365 * 86_400
"""The range of a placeholder's time: some four thousand years."""

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"


class EventResource(Struct, frozen=True):
    """The entity at the other end of the link."""

    id: Annotated[str, _says("The entity's id, as callers name it.")]
    type: Annotated[str, _says("The entity's type, such as `shipment`.")]


class EventLink(Struct, frozen=True):
    """The link as it is after the change."""

    id: Annotated[
        Uuid,
        _says(
            "The link's id, a UUIDv7. `/link` shows the same id in its other form: `dlnk_` and the "
            "128 bits in 26 base32 characters. Every call accepts both forms."
        ),
    ]
    resource: EventResource
    role: Annotated[str | None, _says("What the entity is to the document; null: no role.")]
    created_at: Annotated[
        Timestamp, _says("When the link was first made. A restored link keeps this time.")
    ]
    deleted_at: Annotated[
        Timestamp | None, _says("When the link was removed; null: the link is active.")
    ]


class Previous(Struct, frozen=True):
    """What the change replaced."""

    role: Annotated[str | None, _says("The role before the change; null: no role.")]
    deleted_at: Annotated[
        Timestamp | None,
        _says("When the link had been removed; null: the link was active before the change."),
    ]


class EventData(Struct, frozen=True):
    """What happened to which link, and who did it; `previous` is null for a link's first event."""

    workspace_id: Annotated[Uuid, _says("The workspace of the document and of the API key.")]
    document_id: Annotated[str, _says("The document's id, as callers name it.")]
    document_version: Annotated[
        int,
        _says(
            "The number of the event among all events of the document: each event's is greater by "
            "exactly one. The events of a snapshot have the document's present version."
        ),
    ]
    link: EventLink
    previous: Annotated[
        Previous | None,
        _says("The fields that the change replaced, with their old values; null: a new link."),
    ]
    cause: Annotated[Cause, _says("The kind of call that changed the link; `link` in a snapshot.")]
    actor: Annotated[
        str,
        _says(
            "The public id of the caller's API key; `operator` for an operator's command; "
            "`snapshot` in a snapshot."
        ),
    ]
    request_id: Annotated[
        str,
        _says(
            "The `X-Request-ID` of the call, as in its response and the service's log; "
            "`snapshot` in a snapshot."
        ),
    ]


class Event(Struct, frozen=True):
    """One link event (CloudEvents 1.0, with the extensions partitioning, sequence and tracing)."""

    specversion: Annotated[Literal["1.0"], _says("The version of CloudEvents.")]
    id: Annotated[
        Uuid, _says("The event's id: a UUIDv7. A replay keeps it. In a snapshot: a UUIDv5.")
    ]
    source: Source
    type: Annotated[EventType, _says("What happened. Ignore types that you do not know.")]
    subject: Annotated[str, _says("The document's id.")]
    time: Annotated[
        Timestamp,
        _says(
            "When the change was made: UTC, with microseconds. The order of a document's events is "
            "that of `document_version`, not of this time."
        ),
    ]
    datacontenttype: Annotated[Literal["application/json"], _says("The media type of `data`.")]
    dataschema: Annotated[
        str, _says("The `$id` of the type's JSON Schema. Its number grows with a breaking change.")
    ]
    partitionkey: Key
    sequence: Sequence
    data: EventData
    traceparent: Traceparent | UnsetType = UNSET
    tracestate: Tracestate | UnsetType = UNSET


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
            tracestate=caller.tracestate or UNSET,
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


class Placeholder(Struct, frozen=True):
    """A time and a version that stand in an event until the database knows the true ones.

    Both are random, so that no text of a caller contains them; the process keeps them to itself.
    """

    now: datetime
    version: int

    def template(self, outbox: OutboxRow) -> str:
        """Return the payload of an event with this time and version as a template of Postgres' `format`.

        Its arguments are the beginning of a UUIDv7 (up to the last hyphen but one), the time as `timestamp`
        returns it, and the version, first in 20 digits and then without leading zeros.
        """
        text = outbox.payload.decode().replace("%", "%%")
        version = f"{self.version:020d}", str(self.version)
        places = (outbox.event_id[:ID_START], timestamp(self.now), *version)
        for number, place in enumerate(places, 1):
            text = text.replace(place, f"%{number}$s")
        return text


def placeholder() -> Placeholder:
    """Return a random placeholder."""
    random = SystemRandom()
    now = datetime(5000, 1, 1, tzinfo=UTC) + timedelta(seconds=random.randrange(SECONDS))
    return Placeholder(
        now.replace(microsecond=random.randrange(1_000_000)), random.randrange(10**18, 2**62)
    )


@lru_cache(maxsize=256)  # the rows of one transaction have the same time
def timestamp(time: datetime) -> str:
    """Return the time, which must be in UTC, in ISO 8601 with microseconds."""
    return time.isoformat(timespec="microseconds")[:26] + "Z"


def optional_timestamp(time: datetime | None) -> str | None:
    """Return the `timestamp` of the time; None for None."""
    return None if time is None else timestamp(time)
