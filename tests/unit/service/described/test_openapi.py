"""The OpenAPI document: complete, and in agreement with the code."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from service.core.ids import LINK_ID_PATTERN, LINK_PREFIX, to_text
from service.described.calls import calls_of
from service.described.errors import WITHOUT_KEY
from service.described.examples import LINK_ID
from service.edge.calls.endpoint import READ, WRITE, Path
from service.edge.calls.problems import CODES

Document = dict[str, Any]


def operations(document: Document) -> Iterator[Document]:
    """Yield the document's calls."""
    for path in document["paths"].values():
        yield from path.values()


def contents(document: Document) -> Iterator[tuple[Document, Document]]:
    """Yield each body's schema with its examples."""
    for operation in operations(document):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for body in [*bodies, *document["components"]["responses"].values()]:
            for content in body.get("content", {}).values():
                for example in content.get("examples", {}).values():
                    yield content["schema"], example["value"]


def test_every_call_is_described(app: Starlette, document: Document) -> None:
    """The document has the routes of the router, and no others."""
    served = {
        (route.path, method.lower())
        for route in app.routes
        if isinstance(route, Route) and isinstance(route.endpoint, Path) and route.include_in_schema
        for method in route.endpoint.endpoints
        if method != "HEAD"
    }
    assert served == {
        (path, method) for path, found in document["paths"].items() for method in found
    }
    assert [
        route for route in app.routes if not isinstance(getattr(route, "endpoint", None), Path)
    ] == []


def test_names_are_unique(document: Document) -> None:
    """No two calls have the same operationId."""
    names = [operation["operationId"] for operation in operations(document)]
    assert len(names) == len(set(names)) == 25


def test_examples_are_right(document: Document) -> None:
    """Each example is valid for its schema, formats included."""
    found = list(contents(document))
    for schema, example in found:
        whole = {**schema, "components": document["components"]}
        jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(example)
    assert len(found) > 100


def test_every_message_has_an_example(document: Document) -> None:
    """Each JSON body has an example, except the descriptions themselves."""
    for operation in operations(document):
        if operation["tags"] != ["described"]:
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for body in bodies:
                assert body.get("content", {}).get("application/json", {"examples": 1})["examples"]


def test_vendors_examples_are_shown(document: Document) -> None:
    """The calls of the two vendors' pages have the answers on these pages as examples."""
    paths = document["paths"]
    linked = paths["/v1/documents/{id}/link"]["post"]["responses"]["201"]
    assert linked["content"]["application/json"]["examples"]["example"]["value"] == {
        "data": {
            "link_id": "dlnk_01HY1",
            "document_id": "doc_01HY1",
            "entity_type": "deal",
            "entity_id": "deal_01HY1",
            "role": "signed",
            "created_at": "2026-04-17T10:55:00Z",
        }
    }
    resource = paths["/v1/documents/{id}/links"]["post"]["responses"]["201"]
    assert resource["content"]["application/json"]["examples"]["new"]["value"] == {
        "data": {
            "id": "019696c6-4b3a-7e1d-b9a2-3f8c1d0e5a72",
            "resource": {"id": "ship_abc123", "type": "shipment"},
            "created_at": 1747094400,
            "document": {"id": "dcmt_01j9abc123"},
            "restored": False,
        },
        "message": "Document linked",
    }


@pytest.mark.parametrize(("code", "status"), [(name, code.status) for name, code in CODES.items()])
def test_every_error_is_described(document: Document, code: str, status: int) -> None:
    """Each code in the table of problems is the answer of some call, with its status."""
    references = [
        operation["responses"].get(str(status), {}).get("$ref")
        for operation in operations(document)
    ]
    assert f"#/components/responses/{code}" in references


def test_errors_are_those_that_can_happen(app: Starlette, document: Document) -> None:
    """A call with a body, a key or a precondition has the errors of these, and no others."""
    paths = document["paths"]
    read = set(paths["/v1/documents/{id}"]["get"]["responses"])
    every = {"400", "401", "403", "405", "429", "431", "500", "503"}
    assert read == {"200", "304", "404", "412"} | every
    made = set(paths["/v1/documents"]["post"]["responses"])
    assert made == {"201", "404", "412", "408", "409", "413", "415", "422"} | every
    assert set(paths["/healthz"]["get"]["responses"]) == {"200", "400", "405", "431", "500"}
    for call in calls_of(app.routes):
        matches = "#/components/parameters/IfMatch" in str(paths[call.path][call.method.lower()])
        assert matches == ("412" in paths[call.path][call.method.lower()]["responses"])


def test_both_schemes_open_every_call_that_needs_a_key(document: Document) -> None:
    """Both headers authenticate each call with a scope; pages for operators and readers need no key."""
    for path, calls in document["paths"].items():
        for operation in calls.values():
            scopes = [scope for way in operation["security"] for scope in way.values()]
            if path.startswith("/v1/"):
                assert [set(way) for way in operation["security"]] == [{"bearer"}, {"apiKey"}]
                assert scopes in ([[READ], [READ]], [[WRITE], [WRITE]])
            else:
                assert operation["security"] == []


def test_headers_of_answers(document: Document) -> None:
    """Each answer has a request id, and each answer to a known key its rate limit."""
    quota = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit"}
    responses = document["components"]["responses"]
    for path, calls in document["paths"].items():
        for operation in calls.values():
            for status, response in operation["responses"].items():
                name = response.get("$ref", "").rpartition("/")[2]
                headers = (responses[name] if name else response)["headers"].keys()
                assert "X-Request-ID" in headers
                if path.startswith("/v1/") and status not in {"401", "431", "500", "503"}:
                    assert quota <= headers
    assert "WWW-Authenticate" in responses["invalid_key"]["headers"]
    assert "Allow" in responses[f"method_not_allowed{WITHOUT_KEY}"]["headers"]
    for code in ("request_timeout", "rate_limited", "unavailable"):
        assert "Retry-After" in responses[code]["headers"]


def test_links_lead_to_calls_with_their_parameters(document: Document) -> None:
    """A link has a value for each path parameter of its target."""
    paths = {
        operation["operationId"]: (path, operation)
        for path, calls in document["paths"].items()
        for operation in calls.values()
    }
    found = [
        link
        for operation in operations(document)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    for link in found:
        path, target = paths[link["operationId"]]
        assert {name for name in ("id", "link_id", "entity_id") if f"{{{name}}}" in path} <= set(
            link["parameters"]
        )
        named = {parameter.get("name") for parameter in target["parameters"]}
        assert set(link["parameters"]) <= named
    assert len(found) == 40


def test_descriptions_of_queries_are_there(document: Document) -> None:
    """Each query parameter has a description, and none may be null, which a query cannot have."""
    for operation in operations(document):
        for parameter in operation["parameters"]:
            if parameter.get("in") == "query":
                assert parameter["description"]
                assert "null" not in str(parameter["schema"])


def test_patterns_need_no_python(document: Document) -> None:
    """No pattern uses Python's own syntax: `$` alone marks the end."""
    assert r"(?!\n)" not in str(document)
    validator = jsonschema_rs.Draft202012Validator({"pattern": LINK_ID_PATTERN})
    assert validator.is_valid(LINK_ID)
    short = to_text(LINK_PREFIX, UUID(LINK_ID))
    assert validator.is_valid(short)
    assert not validator.is_valid(f"{short}\n")


def test_every_call_says_what_it_does(document: Document) -> None:
    """Each call has a short summary and a longer description."""
    for operation in operations(document):
        assert 0 < len(operation["summary"]) <= 80
        assert operation["description"].startswith(operation["summary"])


@pytest.mark.parametrize(
    ("path", "method", "words"),
    [
        ("/v1/documents/{id}", "put", ("is cleared", "the links are unchanged")),
        (
            "/v1/links/batch",
            "post",
            ("is refused alone", "or link does not exist", "makes the whole body invalid (400)"),
        ),
    ],
)
def test_surprising_behaviour_is_described(
    document: Document, path: str, method: str, words: tuple[str, ...]
) -> None:
    """The document says what a call does to absent fields, and what else a failed item affects."""
    described = document["paths"][path][method]["description"]
    assert [each for each in words if each not in described] == []


def schemas_in(part: Any) -> Iterator[Document]:  # noqa: ANN401 - any part of a schema
    """Yield each schema in a part of a schema, without values such as examples."""
    if isinstance(part, list):
        for each in part:
            yield from schemas_in(each)
    elif isinstance(part, dict):
        yield part
        for name, each in part.items():
            if name == "properties":
                yield from schemas_in(list(each.values()))
            elif name in {"items", "anyOf", "additionalProperties"}:
                yield from schemas_in(each)


def test_schemas_are_those_that_generators_read(document: Document) -> None:
    """Each schema is a reference, alternatives, or has one type; no field has a default.

    Keywords that generators ignore or do not read are absent, so an object says which fields it takes.
    """
    for schema in schemas_in(list(document["components"]["schemas"].values())):
        assert schema.keys() & {"$ref", "anyOf", "type"}, schema
        assert isinstance(schema.get("type", ""), str), schema
        assert not schema.keys() & {"allOf", "oneOf", "not", "if", "const", "default"}, schema
        assert "$ref" not in schema or schema.keys() <= {"$ref", "description"}, schema
        if schema.get("type") == "object":
            assert schema.keys() & {"properties", "additionalProperties"}, schema


def test_all_problems_have_one_schema(document: Document) -> None:
    """Every error of every call is the same type, which its example shows with its code."""
    for name, response in document["components"]["responses"].items():
        (content,) = response["content"].values()
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        ((code, example),) = content["examples"].items()
        assert code == name.removesuffix(WITHOUT_KEY) == example["value"]["code"]
        assert example["value"]["status"] == CODES[code].status


def test_optional_lists_of_requests_may_be_null(document: Document) -> None:
    """No list that changes links has to be sent: a generated client sends null or nothing for it."""
    schemas = document["components"]["schemas"]
    for name, field in [
        ("PutDocument", "resources"),
        *(("Edits", n) for n in ("add", "remove", "set")),
    ]:
        assert {"type": "null"} in schemas[name]["properties"][field]["anyOf"]
        assert field not in schemas[name].get("required", [])
