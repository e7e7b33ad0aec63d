"""Sends calls to the service, and compares each answer with the model's."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import asyncpg
import httpx
from hypothesis.stateful import RuleBasedStateMachine

from tests.support.service.api import Api, Service, new_key
from tests.support.service.model import Entity, Model, Refused
from tests.support.topic.subscriber import check_outbox

KINDS = ("linked", "restored", "unlinked", "updated")

T = TypeVar("T")


class How(NamedTuple):
    """The headers of a call: an Idempotency-Key, with which the call is sent twice, and If-Match."""

    keyed: bool = False
    match: Literal["any", "this", "stale"] = "any"


class Driver(RuleBasedStateMachine):
    """One run, in a new workspace of the service that all runs share."""

    loop: ClassVar[asyncio.Runner]
    service: ClassVar[Service]
    names = count(1)

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        key = self.run(new_key(self.service.dsn, f"run-{next(self.names)}"))
        self.api: Api = self.run(self.service.api(key))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end on the service's event loop."""
        return self.loop.run(coroutine)

    def send(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Send a call."""
        return self.run(self.api.client.request(method, path, json=body))

    def call(
        self, line: str, body: object, how: How, expect: Callable[[], T], name: str = ""
    ) -> tuple[httpx.Response, T | None]:
        """Send a call about a document, and compare its status with the model's.

        Args:
            line: method and path.
            body: of the request.
            how: the headers.
            expect: makes the same call of the model.
            name: the document.

        Returns the response, and the value of `expect`; None if the model refused the call.
        """
        (method, path), revision, headers = line.split(), None, {}
        if how.match != "any":
            document = self.model.documents.get(name)
            revision = (document.revision if document else 1) - (how.match == "stale")
            headers["If-Match"] = f'"{revision}"'
        if how.keyed:
            headers["Idempotency-Key"] = f"key-{next(self.names)}"
        response = self.run(self.api.client.request(method, path, json=body, headers=headers))
        if how.keyed:
            again = self.run(self.api.client.request(method, path, json=body, headers=headers))
            assert again.status_code == response.status_code
            assert not response.is_success or again.content == response.content
        result, status = None, None
        try:
            with self.model.call(name, revision):
                result = expect()
        except Refused as refused:
            result, status = None, refused.status
        assert status == (None if response.is_success else response.status_code), response.text
        return response, result

    def compare_document(
        self, response: httpx.Response, name: str, changes: Counter[str] | None = None
    ) -> None:
        """Compare the document in a response, its ETag and its changes with the model's."""
        document, shown = self.model.documents[name], response.json()["data"]
        assert {field: shown[field] for field in document.fields} == document.fields
        assert repr(shown["metadata"]) == repr(document.fields["metadata"])
        links = shown["linked_entities"]
        roles = {Entity(each["entity_type"], each["entity_id"]): each["role"] for each in links}
        assert roles == document.active
        assert shown["linkages"] == dict(Counter(entity.type for entity in document.active))
        assert response.headers["etag"] == f'"{document.revision}"'
        if changes is not None:
            counted = {kind: len(response.json()["changes"][kind]) for kind in KINDS}
            assert counted == {kind: changes[kind] for kind in KINDS}

    def teardown(self) -> None:
        """Compare the database with the model and with a subscriber of all events."""
        self.run(self.check())

    async def check(self) -> None:
        """Apply all events; then compare versions and revisions with the model's."""
        connection = await asyncpg.connect(self.service.dsn)
        try:
            await check_outbox(connection)
            workspace = await connection.fetchval(
                "SELECT workspace_id FROM api_keys WHERE hash = sha256($1)", self.api.key.encode()
            )
            rows = await connection.fetch(
                "SELECT id, version, revision FROM documents WHERE workspace_id = $1", workspace
            )
        finally:
            await connection.close()
        documents = self.model.documents
        assert {row["id"]: (row["version"], row["revision"]) for row in rows} == {
            name: (document.version, document.revision) for name, document in documents.items()
        }
