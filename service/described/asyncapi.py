"""The AsyncAPI 3 document: the topic, its key, its messages."""

from typing import Any, Final

from service.core.events import CONTENT_TYPE, EventType, Key, Traceparent
from service.described.events import EVENT_TYPES, KINDS, example, payload_schema
from service.described.schemas import inlined
from service.described.snapshots import (
    CHANNEL,
    MARKER_TYPES,
    MarkerType,
    marker_message,
    snapshot_headers,
)
from service.described.words import EVENTS, LICENCE, VERSION

TOPIC: Final = "document-links"
"""The default of the worker's OUTBOX_TOPIC."""

REPLAY: Final = (
    "On an event that an operator has published again, by default to `<topic>.replay`: it has the "
    "id and the version that it had the first time."
)


def asyncapi() -> dict[str, Any]:
    """Return the document."""
    names = [_name(event_type) for event_type in EVENT_TYPES]
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "Document link events",
            "version": VERSION,
            "description": EVENTS,
            "license": LICENCE,
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            "documentLinks": {
                "address": TOPIC,
                "title": "Document links",
                "description": "Every change of every link; kept without limit, never compacted.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
                "bindings": {
                    "kafka": {
                        "bindingVersion": "0.5.0",
                        "topic": TOPIC,
                        "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": -1},
                    }
                },
            },
            "documentLinksSnapshot": _snapshot_channel(),
        },
        "operations": {
            "publishLinkEvents": {
                "action": "send",
                "channel": {"$ref": "#/channels/documentLinks"},
                "summary": "One event for each link that a call changed.",
                "description": "None for a call that changed nothing, and never one without its row.",
                "messages": [
                    {"$ref": f"#/channels/documentLinks/messages/{name}"} for name in names
                ],
            },
            "publishSnapshot": {
                "action": "send",
                "channel": {"$ref": "#/channels/documentLinksSnapshot"},
                "summary": "All active links, for a new subscriber.",
                "description": "When an operator asks for it.",
                "messages": [
                    {"$ref": f"#/channels/documentLinksSnapshot/messages/{name}"}
                    for name in (_name("document.linked"), *map(_name, MARKER_TYPES))
                ],
            },
        },
        "components": {"messages": {_name(each): _message(each) for each in EVENT_TYPES}},
    }


def _snapshot_channel() -> dict[str, Any]:
    """Return the channel of snapshots. Its markers do not occur in the live topic."""
    address = f"{TOPIC}.snapshot"
    linked = _name("document.linked")
    return {
        "address": address,
        "title": "Snapshot of the document links",
        "description": CHANNEL,
        "messages": {
            linked: {"$ref": f"#/components/messages/{linked}"},
            **{_name(each): marker_message(each) for each in MARKER_TYPES},
        },
        "bindings": {"kafka": {"bindingVersion": "0.5.0", "topic": address}},
    }


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
                "content-type": {"type": "string", "const": CONTENT_TYPE},
                "traceparent": inlined(Traceparent),
                **_republished_headers(event_type),
            },
            "required": ["content-type"],
        },
        "payload": payload_schema(event_type),
        "bindings": {"kafka": {"bindingVersion": "0.5.0", "key": inlined(Key)}},
        "examples": [{"headers": {"content-type": CONTENT_TYPE}, "payload": example(event_type)}],
    }
