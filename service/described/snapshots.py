"""The snapshot of all links, which an operator publishes with the worker: its markers and its topic."""

from typing import Annotated, Any, Final, Literal, get_args

from msgspec import Meta, Raw, Struct

from service.core.events import CONTENT_TYPE, Timestamp, Uuid
from service.described.events import CONTENT_HEADER, constant
from service.described.examples import TIME
from service.described.schemas import DIALECT, Schema, inlined

MarkerType = Literal["snapshot.began", "snapshot.ended"]

MARKER_TYPES: Final[tuple[MarkerType, ...]] = get_args(MarkerType)
SNAPSHOT_ID: Final = "0d5a3e9c-4c55-4f0e-9a53-0c8c1e1f4a0b"

SNAPSHOT: Final = (
    "On every record of a snapshot, by default in `<topic>.snapshot`: an event for each active link, "
    "between a `snapshot.began` and a `snapshot.ended` in every partition. An event's id is a UUIDv5, "
    "the same in every snapshot at that version; all links of a document have the document's present "
    "`document_version`. Apply a snapshot whole, then live events with a higher version."
)
SNAPSHOT_ID_SAYS: Final = "Which snapshot: the `snapshot_id` of its markers. Two are never mixed."
CHANNEL: Final = """\
One snapshot of all active links: it takes the place of an earlier one. In each partition: \
`snapshot.began`, one `document.linked` for each active link, `snapshot.ended`, all with one \
`snapshot-id` in their headers.

At `snapshot.began` start with nothing, and forget a snapshot that has not ended. Collect the records \
with its `snapshot-id`; hold back others. At `snapshot.ended` they are the state of the partition's \
documents: a document that is not among them has no active link. Then apply live events, from the \
offsets in `continue_from` on, whose `document_version` is above the one that the snapshot gave the \
document. For a document that is not among them, apply all live events.
"""
_SAYS: Final[dict[MarkerType, str]] = {
    "snapshot.began": "A snapshot begins in this partition",
    "snapshot.ended": "A snapshot is complete in this partition",
}


SnapshotId = Annotated[Uuid, Meta(description="Which snapshot. Each one has an id of its own.")]
Partition = Annotated[int, Meta(description="The partition of the snapshot that the marker is in.")]


class BeganData(Struct, frozen=True):
    """The data of `snapshot.began`: the snapshot, and the live topic's offsets from which to read on."""

    snapshot_id: SnapshotId
    partition: Partition
    live_topic: Annotated[str, Meta(description="The name of the live topic.")]
    continue_from: Annotated[
        dict[str, int],
        Meta(description="The live topic's offsets from which to read on, by partition."),
    ]


class EndedData(Struct, frozen=True):
    """The data of `snapshot.ended`: the snapshot, and its number of events in this partition."""

    snapshot_id: SnapshotId
    partition: Partition
    links: Annotated[
        int, Meta(description="The number of links between the markers of this partition.")
    ]


MarkerKey = Annotated[Uuid, Meta(description="The record's key: the snapshot's id.")]


class Marker(Struct, frozen=True):
    """A marker (CloudEvents 1.0, with the extension partitioning)."""

    specversion: Annotated[Literal["1.0"], Meta(description="The version of CloudEvents.")]
    id: Annotated[Uuid, Meta(description="The marker's id: a UUIDv5.")]
    source: Annotated[str, Meta(description="The snapshot, as `/snapshots/{snapshot_id}`.")]
    type: Annotated[MarkerType, Meta(description="Which of the two markers this is.")]
    subject: Annotated[Uuid, Meta(description="The snapshot's id.")]
    time: Annotated[Timestamp, Meta(description="When the snapshot was begun: UTC.")]
    datacontenttype: Annotated[
        Literal["application/json"], Meta(description="The media type of `data`.")
    ]
    dataschema: Annotated[str, Meta(description="The `$id` of the marker's JSON Schema.")]
    partitionkey: MarkerKey
    data: Raw
    """BeganData or EndedData, depending on the type."""


_DATA: Final = {"snapshot.began": BeganData, "snapshot.ended": EndedData}


def marker_schema(marker_type: MarkerType) -> Schema:
    """Return the JSON Schema of a marker, under the name that its `dataschema` gives."""
    return {
        "$schema": DIALECT,
        "$id": _dataschema(marker_type),
        **_payload_schema(marker_type),
        "examples": [marker_example(marker_type)],
    }


def marker_example(marker_type: MarkerType) -> dict[str, Any]:
    """Return a marker of the type."""
    details: dict[str, Any] = {"links": 2}
    if marker_type == "snapshot.began":
        details = {"live_topic": "document-links", "continue_from": {"0": 17, "1": 0}}
    return {
        "specversion": "1.0",
        "id": "5f1c7d0e-0f52-5c4b-8a39-6d1f0c5b2e47",
        "source": f"/snapshots/{SNAPSHOT_ID}",
        "type": marker_type,
        "subject": SNAPSHOT_ID,
        "time": TIME,
        "datacontenttype": "application/json",
        "dataschema": _dataschema(marker_type),
        "partitionkey": SNAPSHOT_ID,
        "data": {"snapshot_id": SNAPSHOT_ID, "partition": 0, **details},
    }


def marker_message(marker_type: MarkerType) -> dict[str, Any]:
    """Return the AsyncAPI message of a marker."""
    headers = {"content-type": CONTENT_TYPE, "snapshot": "true", "snapshot-id": SNAPSHOT_ID}
    return {
        "name": marker_type,
        "title": marker_type,
        "summary": f"{_SAYS[marker_type]}.",
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "properties": {
                "content-type": CONTENT_HEADER,
                **snapshot_headers(),
            },
            "required": ["content-type", "snapshot", "snapshot-id"],
        },
        "payload": _payload_schema(marker_type),
        "bindings": {"kafka": {"bindingVersion": "0.5.0", "key": inlined(MarkerKey)}},
        "examples": [{"headers": headers, "payload": marker_example(marker_type)}],
    }


def snapshot_headers() -> Schema:
    """Return the headers of a snapshot's records."""
    return {
        "snapshot": {"type": "string", "const": "true", "description": SNAPSHOT},
        "snapshot-id": {**inlined(Uuid), "description": SNAPSHOT_ID_SAYS},
    }


def _payload_schema(marker_type: MarkerType) -> Schema:
    schema = inlined(Marker)
    properties = schema["properties"]
    properties["type"] = constant(properties["type"], marker_type)
    properties["dataschema"] = constant(properties["dataschema"], _dataschema(marker_type))
    properties["data"] = inlined(_DATA[marker_type])
    schema["title"] = marker_type
    schema["description"] = (
        f"{_SAYS[marker_type]}. Attributes and fields may be added; ignore unknown ones."
    )
    return schema


def _dataschema(marker_type: MarkerType) -> str:
    return f"urn:document-links:{marker_type}:1"
