"""The OpenAPI 3.1 document, made from the route table that serves the requests."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from inspect import cleandoc
from typing import Any, Final

from msgspec import Struct
from starlette.routing import BaseRoute

from service.core.errors import PreconditionFailed
from service.described import relations, words
from service.described.calls import DescribedCall, calls_of, tag_description
from service.described.errors import problem_references, problem_responses
from service.described.examples import examples_of
from service.described.headers import (
    CACHING_HEADERS,
    EVERY_CALL,
    OF_A_KEY,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    path_parameter,
    references,
)
from service.described.schemas import Schema, components, inlined, with_references, without_null
from service.documents.messages import Item
from service.edge.calls.endpoint import READ, WRITE, Endpoint
from service.edge.calls.problems import Problem, title_of
from service.edge.shapes.messages import EntityType
from service.edge.shapes.pages import PageQuery
from service.release import VERSION

SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer wbk_…`"},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-KEY",
        "description": "`X-API-KEY: wbk_…`",
    },
}

NAMED: Final = {"EntityType": EntityType, "Metadata": dict[str, Any], "ResourceItem": Item}
"""The names of types that are no structs."""

Reference = Callable[[type[Struct]], Schema]


def openapi(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """Return the document."""
    calls = list(calls_of(routes))
    shapes = list(dict.fromkeys(shape for call in calls for shape in _shapes(call.endpoint)))
    schemas, named = components([*shapes, Problem], NAMED)
    refer = dict(zip(shapes, schemas, strict=False)).__getitem__
    paths: dict[str, Any] = {}
    for call in calls:
        operation = _operation(call, refer)
        operation["parameters"] = with_references(operation["parameters"], named)
        paths.setdefault(call.path, {})[call.method.lower()] = operation
    relations.add(paths)
    tags = list(dict.fromkeys(call.tag for call in calls))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Document links",
            "version": VERSION,
            "description": words.API,
            "license": words.LICENCE,
        },
        "servers": [{"url": ".", "description": "Where this document was read: beside it."}],
        "tags": [{"name": tag, "description": tag_description(tag)} for tag in tags],
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
    yield from (content for content in endpoint.replies.values() if isinstance(content, type))


def _operation(call: DescribedCall, refer: Reference) -> Schema:
    operation: Schema = {
        "operationId": call.id,
        "tags": [call.tag],
        "summary": call.summary,
        "description": call.description,
        "parameters": _parameters(call),
    }
    responses = _responses(call.endpoint, refer) | problem_references(call.endpoint)
    scope = call.endpoint.scope
    if scope is None:
        return operation | {"security": [], "responses": responses}
    if call.endpoint.body is not None:
        content = _json(call.endpoint.body.shape, refer)
        operation["requestBody"] = {"required": True, "content": content}
    return operation | {
        "description": f"{call.description}\n\nNeeds the scope `{scope}`.",
        "security": [{scheme: [scope]} for scheme in SECURITY_SCHEMES],
        "responses": responses,
    }


def _conditions(call: DescribedCall) -> tuple[str, str]:
    """Return the names of the call's parameters If-Match and If-None-Match."""
    if call.tag == "entities":
        return "IfMatchEntity", "IfNoneMatchEntity"
    return "IfMatch", "IfNoneMatch" if call.endpoint.scope == READ else "IfNoneMatchWrite"


def _parameters(call: DescribedCall) -> list[Schema]:
    names = list(EVERY_CALL)
    if call.endpoint.scope == WRITE:
        names.append("IdempotencyKey")
    if PreconditionFailed in call.endpoint.refusals:
        names += _conditions(call)
    if _is_cached(call.endpoint):
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


def _is_cached(endpoint: Endpoint) -> bool:
    """Whether the response is public, and clients may cache it and revalidate it with If-None-Match."""
    return endpoint.scope is None and HTTPStatus.NOT_MODIFIED in endpoint.replies


def _responses(endpoint: Endpoint, refer: Reference) -> Schema:
    """Return the successes of a call."""
    headers = references(*_headers(endpoint)) | (CACHING_HEADERS if _is_cached(endpoint) else {})
    responses: Schema = {}
    for status, content in sorted(endpoint.replies.items()):
        described: Schema = {}
        says = f"{title_of(status)}."
        if isinstance(content, type):
            described = {"content": _json(content, refer)}
            if endpoint.scope is not None:
                says += f" {cleandoc(content.__doc__ or '')}"
        elif content is not None:
            schema = {"type": "object" if "json" in content else "string"}
            described = {"content": {content: {"schema": schema}}}
        responses[str(status)] = {"description": says, "headers": headers} | described
    return responses


def _headers(endpoint: Endpoint) -> list[str]:
    headers = ["X-Request-ID"]
    if endpoint.scope is not None:
        headers += OF_A_KEY
    if endpoint.scope == WRITE:
        headers.append("Idempotent-Replayed")
    if endpoint.etag:
        headers.append("ETag")
    if endpoint.query is not None and issubclass(endpoint.query.shape, PageQuery):
        headers += ["Link", "Next-Cursor"]
    return headers


def _json(shape: type[Struct], refer: Reference) -> Schema:
    return {"application/json": {"schema": refer(shape), "examples": examples_of(shape)}}
