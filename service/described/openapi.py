"""The OpenAPI 3.1 document, from the route table that serves the requests."""

from collections.abc import Callable, Iterable
from inspect import cleandoc
from typing import Any, Final

from msgspec import Struct
from starlette.routing import BaseRoute

from service.core.errors import PreconditionFailed
from service.described import relations, words
from service.described.calls import DescribedCall, calls_of, room_words
from service.described.errors import (
    WITHOUT_KEY,
    codes_of,
    problem_references,
    problem_responses,
    public_codes_of,
)
from service.described.examples import examples_of
from service.described.headers import (
    EVERY_CALL,
    KEPT,
    OF_A_KEY,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    path_parameter,
    references,
)
from service.described.schemas import Schema, components, inlined, without_null
from service.edge.calls.endpoint import READ, WRITE, Endpoint
from service.edge.calls.problems import Problem, title_of
from service.edge.calls.public import Page
from service.edge.shapes.pages import PageQuery

SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer wbk_…`"},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-KEY",
        "description": "`X-API-KEY: wbk_…`",
    },
}

Reference = Callable[[type[Struct]], Schema]


def openapi(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """Return the document."""
    calls = list(calls_of(routes))
    shapes = list(dict.fromkeys(shape for call in calls for shape in _shapes(call.endpoint)))
    schemas, named = components([*shapes, Problem])
    refer = dict(zip(shapes, schemas, strict=False)).__getitem__
    paths: dict[str, Any] = {}
    for call in calls:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, refer)
    relations.add(paths)
    rooms = list(dict.fromkeys(call.room for call in calls))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Document links",
            "version": words.VERSION,
            "description": words.API,
            "license": words.LICENCE,
        },
        "servers": [{"url": ".", "description": "Where this document was read: beside it."}],
        "tags": [{"name": room, "description": room_words(room)} for room in rooms],
        "paths": paths,
        "components": {
            "schemas": named,
            "parameters": REQUEST_HEADERS,
            "headers": RESPONSE_HEADERS,
            "responses": problem_responses(),
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _shapes(endpoint: Endpoint) -> Iterable[type[Struct]]:
    """Return the structs of a call's bodies."""
    if endpoint.body is not None:
        yield endpoint.body.shape
    contents = endpoint.contents if isinstance(endpoint, Page) else endpoint.replies
    yield from (content for content in contents.values() if isinstance(content, type))


def _operation(call: DescribedCall, refer: Reference) -> Schema:
    operation: Schema = {
        "operationId": call.id,
        "tags": [call.room],
        "summary": call.summary,
        "description": call.words,
        "parameters": _parameters(call),
    }
    if isinstance(call.endpoint, Page):
        return operation | {"security": [], "responses": _page_responses(call.endpoint, refer)}
    if call.endpoint.body is not None:
        content = _json(call.endpoint.body.shape, refer)
        operation["requestBody"] = {"required": True, "content": content}
    scope = call.endpoint.scope
    return operation | {
        "description": f"{call.words}\n\nNeeds the scope `{scope}`.",
        "security": [{scheme: [scope]} for scheme in SECURITY_SCHEMES],
        "responses": _responses(call.endpoint, refer),
    }


def _conditions(call: DescribedCall) -> tuple[str, str]:
    """Return the names of the call's parameters If-Match and If-None-Match."""
    if call.room == "entities":
        return "IfMatchEntity", "IfNoneMatchEntity"
    return "IfMatch", "IfNoneMatch" if call.endpoint.scope == READ else "IfNoneMatchWrite"


def _parameters(call: DescribedCall) -> list[Schema]:
    names = list(EVERY_CALL)
    if call.endpoint.scope == WRITE:
        names.append("IdempotencyKey")
    if PreconditionFailed in call.endpoint.refusals:
        names += _conditions(call)
    if isinstance(call.endpoint, Page) and call.endpoint.kept:
        names.append("IfNoneMatch")
    return [
        *map(path_parameter, call.parameters),
        *_query_parameters(call.endpoint),
        *({"$ref": f"#/components/parameters/{name}"} for name in names),
    ]


def _query_parameters(endpoint: Endpoint) -> list[Schema]:
    if endpoint.query is None:
        return []
    query = inlined(endpoint.query.shape)
    required = query.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": schema.pop("description"),
            "schema": without_null(schema),
        }
        for name, schema in query["properties"].items()
    ]


def _responses(endpoint: Endpoint, refer: Reference) -> Schema:
    headers = ["X-Request-ID", *OF_A_KEY]
    if endpoint.scope == WRITE:
        headers.append("Idempotent-Replayed")
    if endpoint.etag:
        headers.append("ETag")
    if endpoint.query is not None and issubclass(endpoint.query.shape, PageQuery):
        headers.append("Link")
    successes = {
        str(status): _response(status, {}, "", headers)
        if shape is None
        else _response(status, _json(shape, refer), cleandoc(shape.__doc__ or ""), headers)
        for status, shape in sorted(endpoint.replies.items())
    }
    return successes | problem_references(codes_of(endpoint))


def _page_responses(page: Page, refer: Reference) -> Schema:
    responses: Schema = {}
    for status, content in page.contents.items():
        described: Schema = {}
        if isinstance(content, type):
            described = _json(content, refer)
        elif content is not None:
            described = {content: {"schema": {"type": "object" if "json" in content else "string"}}}
        responses[str(status)] = _response(status, described, "", ["X-Request-ID"])
        if page.kept:
            responses[str(status)]["headers"] |= KEPT
    return responses | problem_references(public_codes_of(page), WITHOUT_KEY)


def _response(status: int, content: Schema, says: str, headers: list[str]) -> Schema:
    description = f"{title_of(status)}. {says}".strip()
    response = {"description": description, "headers": references(*headers)}
    return response | ({"content": content} if content else {})


def _json(shape: type[Struct], refer: Reference) -> Schema:
    return {"application/json": {"schema": refer(shape), "examples": examples_of(shape)}}
