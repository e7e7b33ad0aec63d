"""The examples in the OpenAPI document, sent to the service as they stand there."""

from typing import Any

import httpx

from tests.api import Service, new_key


def requests_of(document: dict[str, Any]) -> list[tuple[str, str, str, Any]]:
    """Return each example of a body with its call: the operation's id, method, path, body."""
    found = []
    for path, calls in document["paths"].items():
        for method, operation in calls.items():
            filled = path
            for parameter in operation["parameters"]:
                if parameter.get("in") == "path":
                    filled = filled.replace(f"{{{parameter['name']}}}", parameter["example"])
            content = operation.get("requestBody", {}).get("content", {})
            examples = content.get("application/json", {}).get("examples", {})
            name = operation["operationId"]
            found += [(name, method, filled, example["value"]) for example in examples.values()]
    return found


async def test_every_example_of_a_body_is_accepted(database: str) -> None:
    """Each body is answered with a success that is described, on the document that the path names."""
    async with Service(database, LINKS_ENTITY_POLICY="any") as service:
        api = await service.api(await new_key(database))
        document = (await api.client.get("/openapi.json")).json()
        requests = requests_of(document)
        assert len(requests) >= 8
        for operation, method, path, body in requests:
            if operation == "links_set_role":
                made = await api.add("doc_01HY1", "ship_abc123")
                path = f"/v1/documents/doc_01HY1/links/{made.json()['data']['id']}"  # noqa: PLW2901 - the example's id is of no link
            if operation != "documents_create":
                await api.client.put("/v1/documents/doc_01HY1", json={})
            answer: httpx.Response = await api.client.request(method, path, json=body)
            assert answer.is_success, (operation, body, answer.text)
