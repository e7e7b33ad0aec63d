"""The order of checks: of several faults in a request the first one is answered."""

import asyncpg
import httpx

from tests.support.service.api import Service, new_key, seed

LINKS = "/v1/documents/doc_1/links"
UNKNOWN = f"{LINKS}/00000000-0000-7000-8000-000000000000"
JSON = {"Content-Type": "application/json"}
USED = {"Idempotency-Key": "used"}
STALE = {"If-Match": '"0"'}
GOOD = b'{"resource_id": "ship_1"}'
NOBODY = b'{"resource_id": "ship_none"}'
LARGE = b"{" * (2 << 20)

# Each is wrong in every way from its own one on.
ORDER = [
    ("nobody", "PATCH", "/v1/nothing", b"{", {}, 401),
    ("exhausted", "PATCH", "/v1/nothing", b"{", {}, 429),
    ("reader", "PATCH", "/v1/nothing", b"{", {}, 404),
    ("reader", "PATCH", LINKS, b"{", {}, 405),
    ("reader", "POST", LINKS, b"{", {}, 403),
    ("writer", "POST", LINKS, LARGE, {}, 415),
    ("writer", "POST", LINKS, LARGE, JSON, 413),
    ("writer", "POST", LINKS, b"{", JSON | USED | STALE, 400),
    ("writer", "POST", LINKS, NOBODY, JSON | USED | STALE, 422),
    ("writer", "POST", LINKS, NOBODY, JSON | STALE, 404),
    ("writer", "POST", LINKS, GOOD, JSON | STALE, 412),
    ("writer", "POST", LINKS, GOOD, JSON, 201),
    ("writer", "DELETE", UNKNOWN, b"", {"Idempotency-Key": ""}, 400),
    ("writer", "DELETE", UNKNOWN, b"", {}, 404),
]


async def callers(service: Service) -> dict[str, httpx.AsyncClient]:
    """Return clients of four kinds; the exhausted one has used its only call."""
    reader = await new_key(service.dsn, scopes=["read:documents"])
    writer = await new_key(service.dsn, scopes=["write:documents"])
    exhausted = await service.client(x_api_key=await new_key(service.dsn, rate_limit="1/day"))
    await exhausted.get("/v1/nothing")
    return {
        "nobody": await service.client(),
        "exhausted": exhausted,
        "reader": await service.client(x_api_key=reader),
        "writer": await service.client(x_api_key=writer),
    }


async def test_the_first_fault_is_answered(database: str, connection: asyncpg.Connection) -> None:
    """The order is key, rate, path, method, scope, type, size, body, replay, existence, precondition."""
    async with Service(database) as service:
        clients = await callers(service)
        await seed(connection, 2, 2)
        used = {"resource_id": "ship_2"}
        await clients["writer"].post(LINKS, json=used, headers=USED)
        for who, method, path, body, headers, status in ORDER:
            response = await clients[who].request(method, path, content=body, headers=headers)
            assert response.status_code == status, f"{status}: {response.text}"
