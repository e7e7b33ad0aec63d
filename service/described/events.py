"""JSON Schemas of the events: one for each type, narrowed to the values that the type allows."""

from typing import Any, Final, NamedTuple, get_args

from service.core.events import CONTENT_TYPE, DATASCHEMA_OF, Event, EventType
from service.core.values import Cause
from service.described.examples import EVENT
from service.described.schemas import DIALECT, Schema, inlined

EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)

CONTENT_HEADER: Final[Schema] = {
    "type": "string",
    "const": CONTENT_TYPE,
    "description": "The media type of the value: a CloudEvent in structured mode.",
}

_NULL: Final[Schema] = {"type": "null"}


class Kind(NamedTuple):
    """An event type: whether the link is deleted after the change, and whether it was before."""

    says: str
    cause: Cause
    """One of the possible causes, for the example."""
    deleted: bool
    was_deleted: bool | None
    """None: there was no link before."""


KINDS: Final[dict[EventType, Kind]] = {
    "document.linked": Kind("A link was made", "link", deleted=False, was_deleted=None),
    "document.unlinked": Kind("A link was removed", "unlink", deleted=True, was_deleted=False),
    "document.restored": Kind("A removed link came back", "link", deleted=False, was_deleted=True),
    "document.link_updated": Kind(
        "A link's role changed", "update", deleted=False, was_deleted=False
    ),
}


def event_schema(event_type: EventType) -> Schema:
    """Return the JSON Schema of a whole event, as it is served and as its `dataschema` names it."""
    return {
        "$schema": DIALECT,
        "$id": DATASCHEMA_OF[event_type],
        **payload_schema(event_type),
        "examples": [example(event_type)],
    }


def payload_schema(event_type: EventType) -> Schema:
    """Return the schema of the event struct, narrowed to the type."""
    kind = KINDS[event_type]
    schema = inlined(Event)
    properties = schema["properties"]
    properties["type"] = constant(properties["type"], event_type)
    properties["dataschema"] = constant(properties["dataschema"], DATASCHEMA_OF[event_type])
    data = properties["data"]["properties"]
    link = data["link"]["properties"]
    link["deleted_at"] = _present_if(link["deleted_at"], present=kind.deleted)
    data["previous"] = _present_if(data["previous"], present=kind.was_deleted is not None)
    if kind.was_deleted is not None:
        previous = data["previous"]["properties"]
        previous["deleted_at"] = _present_if(previous["deleted_at"], present=kind.was_deleted)
    schema["title"] = event_type
    schema["description"] = f"{kind.says}. Attributes and fields may be added; ignore unknown ones."
    return schema


def example(event_type: EventType) -> dict[str, Any]:
    """Return an event of the type."""
    kind = KINDS[event_type]
    event: dict[str, Any] = EVENT | {
        "type": event_type,
        "dataschema": DATASCHEMA_OF[event_type],
    }
    data, time = event["data"], event["time"]
    previous = None
    if kind.was_deleted is not None:
        role = data["link"]["role"] if kind.deleted else "draft"
        previous = {"role": role, "deleted_at": time if kind.was_deleted else None}
    link = data["link"] | {"deleted_at": time if kind.deleted else None}
    event["data"] = data | {"link": link, "previous": previous, "cause": kind.cause}
    return event


def _present_if(nullable: Schema, *, present: bool) -> Schema:
    """Return the alternative of a nullable schema that applies, with the field's description."""
    (certain,) = (option for option in nullable["anyOf"] if (option == _NULL) is not present)
    return {**certain, "description": nullable["description"]}


def constant(schema: Schema, value: str) -> Schema:
    """Return the schema of a field that has one value only, with the field's description."""
    return {"type": "string", "const": value, "description": schema["description"]}
