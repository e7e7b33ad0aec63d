"""The AsyncAPI 3 document: the topic, its key, its messages."""

from collections.abc import Sequence
from typing import Any, Final

from service.core.events import CONTENT_TYPE, EventType, Key, Traceparent, Tracestate
from service.described.events import (
    CONTENT_HEADER,
    EVENT_TYPES,
    KINDS,
    example,
    payload_schema,
)
from service.described.schemas import inlined
from service.described.snapshots import (
    CHANNEL,
    MARKER_TYPES,
    MarkerType,
    marker_message,
    snapshot_headers,
)
from service.described.words import EVENTS, LICENCE
from service.release import VERSION

TOPIC: Final = "document-links"
"""The default of the worker's OUTBOX_TOPIC."""

SNAPSHOT_TYPES: Final[tuple[EventType | MarkerType, ...]] = ("document.linked", *MARKER_TYPES)
"""The types of a snapshot's records."""

REPLAY: Final = (
    "On an event that an operator has published again, by default to `<topic>.replay`: it has the "
    "id and the version that it had the first time."
)


def asyncapi() -> dict[str, Any]:
    """Return the document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Document link events",
            "version": VERSION,
            "description": EVENTS,
            "license": LICENCE,
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            "documentLinks": _live_channel(),
            "documentLinksSnapshot": _snapshot_channel(),
        },
        "operations": {
            "publishLinkEvents": {
                "summary": "One event for each link that a call changed.",
                "description": "None for a call that changed nothing, and never one without its row.",
                **_sends("documentLinks", EVENT_TYPES),
            },
            "publishSnapshot": {
                "summary": "All active links, for a new subscriber.",
                "description": "When an operator asks for it.",
                **_sends("documentLinksSnapshot", SNAPSHOT_TYPES),
            },
        },
        "components": {
            "messages": {
                **{_name(each): _message(each) for each in EVENT_TYPES},
                **{_name(each): marker_message(each) for each in MARKER_TYPES},
            }
        },
    }


def _live_channel() -> dict[str, Any]:
    configuration = {"cleanup.policy": ["delete"], "retention.ms": -1}
    return {
        "address": TOPIC,
        "title": "Document links",
        "description": "Every change of every link; kept without limit, never compacted.",
        "messages": {_name(each): _reference(each) for each in EVENT_TYPES},
        "bindings": _topic(TOPIC, topicConfiguration=configuration),
    }


def _snapshot_channel() -> dict[str, Any]:
    """Return the channel of snapshots. Its markers do not occur in the live topic."""
    address = f"{TOPIC}.snapshot"
    return {
        "address": address,
        "title": "Snapshot of the document links",
        "description": CHANNEL,
        "messages": {_name(each): _reference(each) for each in SNAPSHOT_TYPES},
        "bindings": _topic(address),
    }


def _topic(name: str, **configuration: object) -> dict[str, Any]:
    return {"kafka": {"bindingVersion": "0.5.0", "topic": name, **configuration}}


def _sends(channel: str, types: Sequence[EventType | MarkerType]) -> dict[str, Any]:
    """Return the operation that sends messages of these types to a channel."""
    reference = f"#/channels/{channel}"
    messages = [{"$ref": f"{reference}/messages/{_name(each)}"} for each in types]
    return {"action": "send", "channel": {"$ref": reference}, "messages": messages}


def _reference(event_type: EventType | MarkerType) -> dict[str, str]:
    return {"$ref": f"#/components/messages/{_name(event_type)}"}


def _name(event_type: EventType | MarkerType) -> str:
    """Return the type as an identifier, such as `documentLinkUpdated`."""
    first, *rest = event_type.replace(".", "_").split("_")
    return first + "".join(word.capitalize() for word in rest)


def _republished_headers(event_type: EventType) -> dict[str, Any]:
    """Return the headers of events that an operator has published again, or in a snapshot."""
    replay = {"type": "string", "const": "true", "description": REPLAY}
    return {"replay": replay} | (snapshot_headers() if event_type == "document.linked" else {})


def _message(event_type: EventType) -> dict[str, Any]:
    return {
        "name": event_type,
        "title": event_type,
        "summary": f"{KINDS[event_type].says}.",
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "properties": {
                "content-type": CONTENT_HEADER,
                "traceparent": inlined(Traceparent),
                "tracestate": inlined(Tracestate),
                **_republished_headers(event_type),
            },
            "required": ["content-type"],
        },
        "payload": payload_schema(event_type),
        "bindings": {"kafka": {"bindingVersion": "0.5.0", "key": inlined(Key)}},
        "examples": [{"headers": {"content-type": CONTENT_TYPE}, "payload": example(event_type)}],
    }
