"""The examples in the OpenAPI document, sent to the service unchanged."""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import asyncpg

from tests.support.service.api import Api, Service, new_key

MADE_FIRST = {"resources": ["ship_abc123", {"entity_type": "deal", "entity_id": "deal_01HY1"}]}
MALFORMED = {400, 406, 415, 422, 431}
"""Statuses of a request that is wrong itself, whatever the state of the service."""
LINK_ID = """
UPDATE document_links SET id = $1 WHERE entity_id = 'ship_abc123' AND document_id = 'doc_01HY1'
"""


class Example(NamedTuple):
    """An example call of the document."""

    operation: str
    method: str
    url: str
    body: Any = None


def parameters_of(document: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the operation's parameters, each with its example, if there is one."""
    shared = document["components"]["parameters"]
    found = []
    for given in operation["parameters"]:
        parameter = shared[given["$ref"].rpartition("/")[2]] if "$ref" in given else given
        schema = parameter["schema"]
        examples = [parameter.get("example"), schema.get("example"), *schema.get("examples", [])]
        found.append({**parameter, "example": next((e for e in examples if e is not None), None)})
    return found


def examples_of(document: dict[str, Any]) -> Iterator[Example]:
    """Yield each call with each of its example bodies.

    An optional parameter has no example: Swagger UI would fill it in and send it.
    """
    for path, calls in document["paths"].items():
        for method, operation in calls.items():
            parameters = parameters_of(document, operation)
            url, required = path, {}
            for parameter in (each for each in parameters if each.get("required")):
                assert parameter["example"] is not None, (path, parameter["name"])
                if parameter["in"] == "path":
                    url = url.replace(f"{{{parameter['name']}}}", parameter["example"])
                else:
                    required[parameter["name"]] = parameter["example"]
            content = operation.get("requestBody", {}).get("content", {})
            shown = content.get("application/json", {}).get("examples", {})
            bodies = [each["value"] for each in shown.values()] or [None]
            call = Example(
                operation["operationId"], method, f"{url}?{urlencode(required)}", bodies[0]
            )
            yield from (call._replace(body=body) for body in bodies)
            for parameter in (each for each in parameters if not each.get("required")):
                assert parameter["example"] is None, (path, parameter["name"])


async def make_what_they_name(api: Api, connection: asyncpg.Connection, link_id: str) -> None:
    """Make the document with the links that the examples name."""
    await api.client.put("/v1/documents/doc_01HY1", json=MADE_FIRST)
    await connection.execute(LINK_ID, link_id)


async def test_every_example_is_a_good_request(
    database: str, connection: asyncpg.Connection
) -> None:
    """Each example is answered with a success."""
    async with Service(database, LINKS_ENTITY_POLICY="any") as service:
        api = await service.api(await new_key(database))
        document = (await api.client.get("/openapi.json")).json()
        examples = list(examples_of(document))
        assert len({example.operation for example in examples}) >= 24
        assert len([example for example in examples if example.body is not None]) >= 8
        for example in examples:
            await connection.execute("TRUNCATE documents, entities, idempotency_keys CASCADE")
            if example.operation != "documents_create":
                await make_what_they_name(api, connection, "019696c6-4b3a-7e1d-b9a2-3f8c1d0e5a72")
            answer = await api.client.request(example.method, example.url, json=example.body)
            assert answer.status_code not in MALFORMED, (example, answer.text)
            described = document["paths"][_template(document, example)][example.method]["responses"]
            assert str(answer.status_code) in described, example
            assert answer.status_code < 400, example


def _template(document: dict[str, Any], example: Example) -> str:
    """Return the path template of an example's call."""
    paths: dict[str, dict[str, Any]] = document["paths"]
    return next(
        path for path, calls in paths.items()
        if calls.get(example.method, {}).get("operationId") == example.operation
    )  # fmt: skip
