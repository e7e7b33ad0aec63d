"""The compatibility check: it finds each kind of break, and passes harmless changes."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.compatibility import Document, OpenApiChange, event_breaks
from tests.contract.documents import published

OPENAPI: Document = json.loads(published()["openapi.json"])
UPDATED: Document = json.loads(published()["document.link_updated.json"])

LINK = "/v1/documents/{id}/link"
LIST = "/v1/documents/{id}/links"
DOCUMENT = "/v1/documents/{id}"

Edit = Callable[[Document], Any]


def schema(document: Document, name: str) -> Document:
    """Return a schema of the OpenAPI document."""
    found: Document = document["components"]["schemas"][name]
    return found


def fields(document: Document, name: str) -> Document:
    """Return the fields of a schema."""
    found: Document = schema(document, name)["properties"]
    return found


def query(document: Document, name: str) -> Document:
    """Return a query parameter of the list of links."""
    parameters: list[Document] = document["paths"][LIST]["get"]["parameters"]
    return next(each for each in parameters if each.get("name") == name)


def call(document: Document, path: str = LINK, method: str = "post") -> Document:
    """Return a call."""
    found: Document = document["paths"][path][method]
    return found


def rename(document: Document, name: str, new: str) -> None:
    """Give a schema another name, wherever it is referred to."""
    text = json.dumps(document).replace(f'schemas/{name}"', f'schemas/{new}"')
    document.update(json.loads(text))
    schemas = document["components"]["schemas"]
    schemas[new] = schemas.pop(name)


BREAKS: dict[str, Edit] = {
    "a path is gone": lambda d: d["paths"].pop(LINK),
    "a call is gone": lambda d: d["paths"][LIST].pop("delete"),
    "a call has another name": lambda d: call(d).update(operationId="link"),
    "a call has another tag": lambda d: call(d).update(tags=["link"]),
    "a schema has another name": lambda d: rename(d, "FieldError", "WrongField"),
    "a request's class is written out": lambda d: fields(d, "UpdateDocument").update(
        metadata=schema(d, "Metadata")
    ),
    "an answer's class is written out": lambda d: fields(d, "LinkReply").update(
        data=schema(d, "Link")
    ),
    "the class of a list's items is written out": lambda d: fields(d, "ResourceLinkList")[
        "data"
    ].update(items=schema(d, "ResourceLink")),
    "an answer's class is another": lambda d: (
        d["components"]["schemas"].update(SameLink=schema(d, "Link")),
        fields(d, "LinkReply")["data"].update({"$ref": "#/components/schemas/SameLink"}),
    ),
    "the class of a whole answer is written out": lambda d: call(d)["responses"]["200"]["content"][
        "application/json"
    ].update(schema=schema(d, "LinkReply")),
    "a scope is not enough any more": lambda d: call(d).update(security=[{"bearer": ["admin"]}]),
    "one of two ways to send a key is gone": lambda d: call(d)["security"].pop(),
    "a public page needs a key": lambda d: call(d, "/healthz", "get").update(
        security=[{"bearer": []}]
    ),
    "a new field is required in a request": lambda d: schema(d, "LinkRequest")["required"].append(
        "role"
    ),
    "a request's field is gone": lambda d: fields(d, "LinkRequest").pop("role"),
    "a request's text is shorter": lambda d: fields(d, "LinkRequest")["role"]["anyOf"][0].update(
        maxLength=32
    ),
    "a request's pattern differs": lambda d: fields(d, "LinkRequest")["entity_id"].update(
        pattern="^[a-z]+$"
    ),
    "a request's text becomes a number": lambda d: fields(d, "LinkRequest")["entity_id"].update(
        type="integer"
    ),
    "a request's null is refused": lambda d: fields(d, "LinkRequest")["role"]["anyOf"].pop(),
    "a request's value is gone": lambda d: fields(d, "LinkRequest")["entity_type"]["enum"].pop(),
    "a request takes fewer items": lambda d: fields(d, "BatchRequest")["operations"].update(
        maxItems=100
    ),
    "a rule is added to a request": lambda d: fields(d, "UpdateDocument")["resources"].update(
        {"not": {"required": ["remove"]}}
    ),
    "a field deep in a request is gone": lambda d: fields(d, "EntityItem").pop("role"),
    "a request's form of ids is narrower": lambda d: fields(d, "ResourceLinkRequest")[
        "resource_id"
    ].update(allOf=[{"pattern": "^ship_"}]),
    "a body is refused": lambda d: call(d)["requestBody"]["content"].pop("application/json"),
    "a body is asked for": lambda d: call(d, LIST, "delete").update(
        requestBody={"required": True, "content": {}}
    ),
    "a parameter is gone": lambda d: call(d, LIST, "get")["parameters"].remove(query(d, "page")),
    "a parameter is required": lambda d: query(d, "resource_id").update(required=True),
    "a new parameter is required": lambda d: call(d, LIST, "get")["parameters"].append(
        {"name": "new", "in": "query", "required": True, "schema": {}}
    ),
    "a parameter's range is smaller": lambda d: query(d, "limit")["schema"].update(maximum=50),
    "a parameter's default differs": lambda d: query(d, "limit")["schema"].update(default=10),
    "a success is gone": lambda d: call(d)["responses"].pop("200"),
    "a success is new": lambda d: call(d)["responses"].update({"202": {"description": "Later"}}),
    "an answer's media type differs": lambda d: call(d)["responses"]["200"].update(content={}),
    "an answer's field is gone": lambda d: fields(d, "Link").pop("role"),
    "an answer's optional field is gone": lambda d: fields(d, "OperationOutcome").pop("link"),
    "an answer's field may be absent": lambda d: schema(d, "Link")["required"].remove("role"),
    "an answer's field may be null": lambda d: fields(d, "Link").update(
        link_id={"anyOf": [{"type": "string"}, {"type": "null"}]}
    ),
    "an answer's text becomes a number": lambda d: fields(d, "Link")["link_id"].update(
        type="integer"
    ),
    "an answer's format differs": lambda d: fields(d, "Link")["created_at"].update(format="date"),
    "an answer's items differ": lambda d: fields(d, "ResourceLinkList")["data"].update(
        items={"type": "string"}
    ),
    "an answer has a new value": lambda d: fields(d, "Health")["status"]["enum"].append("slow"),
    "a field deep in an answer is gone": lambda d: fields(d, "EventLink").pop("role"),
    "an error's field is gone": lambda d: fields(d, "Problem").pop("code"),
    "an error's field may be absent": lambda d: schema(d, "Problem")["required"].remove("detail"),
    "an error's code differs": lambda d: d["components"]["responses"]["not_found"]["content"][
        "application/problem+json"
    ]["examples"]["not_found"]["value"].update(code="missing"),
    "a header is gone": lambda d: call(d)["responses"]["200"]["headers"].pop("RateLimit"),
    "a header may be absent": lambda d: d["components"]["headers"]["X-Request-ID"].update(
        required=False
    ),
}

HARMLESS: dict[str, Edit] = {
    "nothing": lambda _: None,
    "words": lambda d: call(d).update(summary="Other words", description="Other words"),
    "a new call": lambda d: d["paths"].update({"/v1/new": {"get": {}}}),
    "a new optional field in a request": lambda d: fields(d, "LinkRequest").update(
        note={"type": "string"}
    ),
    "a new value in a request": lambda d: fields(d, "LinkRequest")["entity_type"]["enum"].append(
        "room"
    ),
    "a longer text in a request": lambda d: fields(d, "LinkRequest")["role"]["anyOf"][0].update(
        maxLength=128
    ),
    "a field of a request that may be absent": lambda d: schema(d, "LinkRequest")[
        "required"
    ].remove("entity_id"),
    "a new optional parameter": lambda d: call(d, LIST, "get")["parameters"].append(
        {"name": "new", "in": "query", "required": False, "schema": {}}
    ),
    "a new field in an answer": lambda d: fields(d, "Link").update(note={"type": "string"}),
    "an answer's field that is never null": lambda d: fields(d, "Link").update(
        role={"type": "string"}
    ),
    "a value that does not come any more": lambda d: fields(d, "Health")["status"]["enum"].pop(),
    "a new error": lambda d: call(d)["responses"].update(
        {"410": {"$ref": "#/components/responses/not_found"}}
    ),
    "a class for what was written out": lambda d: (
        d["components"]["schemas"].update(NewDetail=fields(d, "Problem")["detail"]),
        fields(d, "Problem").update(detail={"$ref": "#/components/schemas/NewDetail"}),
    ),
    "a new header": lambda d: call(d)["responses"]["200"]["headers"].update(
        {"Sunset": {"required": False, "schema": {}}}
    ),
    "a break under a new major version": lambda d: (
        d["paths"].pop(LINK),
        d["info"].update(version="2.0.0"),
    ),
}

EVENT_BREAKS: dict[str, Edit] = {
    "another name": lambda e: e.update({"$id": "urn:other:document.link_updated:2"}),
    "an older number": lambda e: e.update({"$id": "urn:document-links:document.link_updated:0"}),
    "a field is gone": lambda e: e["properties"]["data"]["properties"].pop("actor"),
    "an optional attribute is gone": lambda e: e["properties"].pop("traceparent"),
    "a field may be absent": lambda e: e["required"].remove("sequence"),
    "a field has another type": lambda e: e["properties"]["data"]["properties"].update(
        document_version={"type": "string"}
    ),
    "a pattern differs": lambda e: e["properties"]["sequence"].update(pattern="^[0-9]+$"),
    "a cause is new": lambda e: e["properties"]["data"]["properties"]["cause"]["enum"].append("x"),
    "what was certain is not": lambda e: e["properties"]["data"]["properties"].update(
        previous={"type": "null"}
    ),
}

EVENT_HARMLESS: dict[str, Edit] = {
    "nothing": lambda _: None,
    "words": lambda e: e.update(title="Other words", examples=[]),
    "a new attribute": lambda e: e["properties"].update(correlationid={"type": "string"}),
    "a cause that does not come any more": lambda e: e["properties"]["data"]["properties"]["cause"][
        "enum"
    ].pop(),
    "a break under a new number": lambda e: (
        e["properties"].pop("sequence"),
        e.update({"$id": "urn:document-links:document.link_updated:2"}),
    ),
}


def changed(document: Document, edit: Edit) -> Document:
    """Return an edited copy of a document."""
    copied = copy.deepcopy(document)
    edit(copied)
    return copied


@pytest.mark.parametrize("edit", BREAKS.values(), ids=BREAKS.keys())
def test_break_of_the_api_is_found(edit: Edit) -> None:
    """The check finds a change after which a caller could fail."""
    assert list(OpenApiChange(OPENAPI, changed(OPENAPI, edit)).breaks())


@pytest.mark.parametrize("edit", HARMLESS.values(), ids=HARMLESS.keys())
def test_harmless_change_of_the_api_is_let_through(edit: Edit) -> None:
    """The check passes a change that cannot harm a caller."""
    assert list(OpenApiChange(OPENAPI, changed(OPENAPI, edit)).breaks()) == []


@pytest.mark.parametrize("edit", EVENT_BREAKS.values(), ids=EVENT_BREAKS.keys())
def test_break_of_an_event_is_found(edit: Edit) -> None:
    """The check finds a change after which a subscriber could fail."""
    assert list(event_breaks(UPDATED, changed(UPDATED, edit)))


@pytest.mark.parametrize("edit", EVENT_HARMLESS.values(), ids=EVENT_HARMLESS.keys())
def test_harmless_change_of_an_event_is_let_through(edit: Edit) -> None:
    """The check passes a change that cannot harm a subscriber."""
    assert list(event_breaks(UPDATED, changed(UPDATED, edit))) == []


def test_break_says_where_it_is() -> None:
    """The text names the call, the place in it, and what is wrong."""
    edit = BREAKS["a request's text is shorter"]
    (found,) = OpenApiChange(OPENAPI, changed(OPENAPI, edit)).breaks()
    assert found.startswith(f"POST {LINK} body.role: ")
