"""The schemas of events: as strict as is certain for each type."""

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from msgspec.json import encode

from service.core.events import Event, EventType
from service.described.asyncapi import asyncapi
from service.described.events import EVENT_TYPES, event_schema, example
from service.described.snapshots import MARKER_TYPES, marker_schema

Edit = Callable[[dict[str, Any]], Any]


def validator(event_type: EventType) -> jsonschema.Draft202012Validator:
    """Return the reference implementation's validator, which checks formats too."""
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(event_schema(event_type), format_checker=checker)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_schema_is_valid(event_type: EventType) -> None:
    """The schema is valid for draft 2020-12, and has the name in the events' `dataschema`."""
    schema = event_schema(event_type)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:document-links:{event_type}:1"
    assert set(schema["properties"]) == set(Event.__struct_fields__)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_example_is_an_event_of_its_type_only(event_type: EventType) -> None:
    """Each example is valid for one type only, and a CloudEvents library reads it."""
    event = example(event_type)
    assert [each for each in EVENT_TYPES if validator(each).is_valid(event)] == [event_type]
    assert JSONFormat().read(CloudEvent, encode(event)).get_type() == event_type


WRONG: dict[str, Edit] = {
    "no id": lambda e: e.pop("id"),
    "an id that is no UUID": lambda e: e.update(id="1"),
    "a time that is none": lambda e: e.update(time="yesterday"),
    "a null attribute": lambda e: e.update(traceparent=None),
    "a short sequence": lambda e: e.update(sequence="42"),
    "another's source": lambda e: e.update(source="/elsewhere"),
    "a key without a document": lambda e: e.update(partitionkey=e["data"]["workspace_id"]),
    "a version in words": lambda e: e["data"].update(document_version="two"),
    "a link that is deleted": lambda e: e["data"]["link"].update(deleted_at=e["time"]),
    "nothing before": lambda e: e["data"].update(previous=None),
    "an unknown cause": lambda e: e["data"].update(cause="whim"),
}


@pytest.mark.parametrize("edit", WRONG.values(), ids=WRONG.keys())
def test_invalid_events_are_refused(edit: Edit) -> None:
    """The schema refuses wrong fields, and a role change of a link that is not active."""
    event = copy.deepcopy(example("document.link_updated"))
    edit(event)
    assert not validator("document.link_updated").is_valid(event)


def test_unknown_fields_are_let_through() -> None:
    """An event with an additional field is valid, so that later versions can add one."""
    event = example("document.linked")
    event["data"] = {**event["data"], "added": "later"}
    assert validator("document.linked").is_valid({**event, "added": "later"})


def test_asyncapi_has_the_same_messages() -> None:
    """The AsyncAPI document describes each type as its schema does."""
    messages = asyncapi()["components"]["messages"].values()
    schemas: dict[str, Any] = {name: event_schema(name) for name in EVENT_TYPES}
    schemas |= {name: marker_schema(name) for name in MARKER_TYPES}
    assert [message["name"] for message in messages] == list(schemas)
    for message in messages:
        schema = schemas[message["name"]]
        assert message["payload"].items() <= schema.items()
        assert message["examples"][0]["payload"] == schema["examples"][0]
