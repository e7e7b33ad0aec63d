"""Events, validated with the published JSON Schema that their `dataschema` names."""

from typing import Any, Final

import jsonschema_rs
import msgspec

from service.described.events import EVENT_TYPES, event_schema
from service.described.snapshots import MARKER_TYPES, marker_schema

_SCHEMAS: Final = {
    schema["$id"]: jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    for schema in (*map(event_schema, EVENT_TYPES), *map(marker_schema, MARKER_TYPES))
}


def event_of(value: bytes) -> dict[str, Any]:
    """Validate a message's value with its schema; return the event."""
    event: dict[str, Any] = msgspec.json.decode(value)
    _SCHEMAS[event["dataschema"]].validate(event)
    return event
