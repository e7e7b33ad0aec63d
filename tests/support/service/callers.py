"""Callers that make random writes, all to the same few documents."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import httpx

from tests.support.service.api import Api, persistently

DOCUMENTS = [f"doc_{number}" for number in range(1, 5)]
RESOURCES = [f"{prefix}_{number}" for prefix in ("ship", "item") for number in range(1, 4)]
PERMANENT = "item_1"
"""A resource that no call deletes: callers delete shipments only."""


class Stop(Protocol):
    """An event of asyncio or of threading."""

    def is_set(self) -> bool:
        """Whether the calls shall end."""


class Caller:
    """Makes random calls of every kind that writes."""

    def __init__(self, api: Api, seed: int) -> None:
        self._api = api
        self._random = random.Random(seed)
        self.statuses: Counter[int] = Counter()

    async def call(self) -> None:
        """Make a call; repeat it after a 503 that wrote nothing. No other answer may be 500 or more."""
        kind = self._random.choice(KINDS)
        await self._send(lambda: kind(self))

    async def call_until(self, stop: Stop) -> None:
        """Make calls until `stop` is set, and then link, so that the last of several callers leaves a link.

        Random calls alone leave none at about three of a thousand moments.
        """
        while not stop.is_set():
            await self.call()
        path, resources = f"/v1/documents/{DOCUMENTS[0]}", [PERMANENT]
        last = await self._send(lambda: self._api.client.put(path, json={"resources": resources}))
        assert last.is_success, last.text

    async def _send(self, call: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        response = await persistently(call)
        self.statuses[response.status_code] += 1
        assert response.status_code < 500, response.text
        return response

    def document(self) -> str:
        """Return the path of a document."""
        return f"/v1/documents/{self._random.choice(DOCUMENTS)}"

    def some(self, count: int = 3) -> list[str]:
        """Return a few resources in random order."""
        return self._random.sample(RESOURCES, count)

    async def add(self) -> httpx.Response:
        """Link a resource."""
        resource = {"resource_id": self._random.choice(RESOURCES)}
        return await self._api.client.post(f"{self.document()}/links", json=resource)

    async def remove(self) -> httpx.Response:
        """Unlink a resource by its id."""
        query = {"resource_id": self._random.choice(RESOURCES)}
        return await self._api.client.delete(f"{self.document()}/links", params=query)

    async def update(self) -> httpx.Response:
        """Add and remove links, or replace them all, in one update."""
        few = self.some()
        edits: dict[str, Any] = self._random.choice(
            [{"set": few}, {"add": few[:2], "remove": few[2:]}]
        )
        return await self._api.client.post(self.document(), json={"resources": edits})

    async def put(self) -> httpx.Response:
        """Replace a document with its links, or restore it."""
        return await self._api.client.put(self.document(), json={"resources": self.some()})

    async def batch(self) -> httpx.Response:
        """Link and unlink on several documents in one call."""
        operations = [
            {
                "op": self._random.choice(["link", "unlink"]),
                "document_id": self._random.choice(DOCUMENTS),
                "resource_id": self._random.choice(RESOURCES),
            }
            for _ in range(self._random.randint(1, 12))
        ]
        body = {"operations": operations, "atomic": self._random.random() < 0.3}
        return await self._api.client.post("/v1/links/batch", json=body)

    async def delete(self) -> httpx.Response:
        """Delete a document with its links."""
        return await self._api.client.delete(self.document())

    async def restore(self) -> httpx.Response:
        """Restore a document with its links."""
        return await self._api.client.post(f"{self.document()}/restore")

    async def delete_entity(self) -> httpx.Response:
        """Delete an entity with all links to it."""
        return await self._api.client.delete(f"/v1/entities/shipment/ship_{self.number()}")

    async def put_entity(self) -> httpx.Response:
        """Register an entity, or revive it."""
        return await self._api.client.put(f"/v1/entities/shipment/ship_{self.number()}")

    def number(self) -> int:
        """Return the number of a shipment."""
        return self._random.randint(1, 3)


KINDS = [
    *[Caller.add] * 6,
    *[Caller.remove] * 4,
    *[Caller.update] * 3,
    *[Caller.batch] * 3,
    *[Caller.put] * 2,
    Caller.delete,
    *[Caller.restore] * 2,
    Caller.delete_entity,
    *[Caller.put_entity] * 2,
]
