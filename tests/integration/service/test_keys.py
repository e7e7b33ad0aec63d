"""API keys: who is let in, to what, for how long."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import asyncpg
import httpx
import pytest

from service.store.database import Database
from service.store.keys import create_key
from tests.api import BOTH_SCOPES, Api, Link, Service, new_key, seed
from tests.waiting import until

LINKS = "/v1/documents/doc_1/links"
READ, WRITE = BOTH_SCOPES


@pytest.fixture
async def stranger(
    database: str, connection: asyncpg.Connection
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client without a key, of a service with something to link."""
    async with Service(database) as service:
        await new_key(database)
        await seed(connection, 1, 1)
        yield await service.client()


async def status(client: httpx.AsyncClient, **headers: str) -> int:
    """Return what a list is answered with under these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await client.get(LINKS, headers=named)).status_code


async def test_either_header_carries_the_key(stranger: httpx.AsyncClient, database: str) -> None:
    """Bearer, in any letter case, and X-API-KEY are the same."""
    key = await new_key(database)
    assert await status(stranger, authorization=f"Bearer {key}") == 200
    assert await status(stranger, authorization=f"bearer  {key}") == 200
    assert await status(stranger, x_api_key=key) == 200


async def test_either_header_is_good_for_either_vendors_call(
    stranger: httpx.AsyncClient, database: str
) -> None:
    """Both link calls take both headers."""
    key = await new_key(database)
    for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-KEY": key}):
        api = Api(stranger, key)
        assert (await api.add("doc_1", "ship_1", headers)).is_success
        assert (await api.link("doc_1", Link("deal", "deal_1"), headers)).is_success


async def test_what_is_no_key_is_401(stranger: httpx.AsyncClient, database: str) -> None:
    """No key, another scheme, another shape, another letter: 401, and how to send one."""
    key = await new_key(database)
    other = key[:-1] + ("a" if key[-1] != "a" else "b")
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": key},
        {"authorization": f"Basic {key}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {key} {key}"},
        {"x_api_key": ""},
        {"x_api_key": "wbk_"},
        {"x_api_key": key.upper()},
        {"x_api_key": key + "x"},
        {"x_api_key": other},
    ]
    assert [await status(stranger, **headers) for headers in wrong] == [401] * len(wrong)
    refused = await stranger.get(LINKS)
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.json()["code"] == "invalid_key"
    assert "x-ratelimit-limit" not in refused.headers
    assert refused.headers["x-request-id"] == refused.json()["request_id"]


@pytest.mark.parametrize(("scope", "read", "write"), [(READ, 200, 403), (WRITE, 403, 201)])
async def test_scopes_are_kept_apart(
    stranger: httpx.AsyncClient, database: str, scope: str, read: int, write: int
) -> None:
    """A key that may read may not write, and the other way round; the missing scope is named."""
    headers = {"X-API-KEY": await new_key(database, scopes=[scope])}
    got = await stranger.get(LINKS, headers=headers)
    made = await stranger.post(LINKS, json={"resource_id": "ship_1"}, headers=headers)
    assert (got.status_code, made.status_code) == (read, write)
    (refused,) = [each for each in (got, made) if each.status_code == 403]
    assert refused.json()["code"] == "insufficient_permissions"
    assert ({READ, WRITE} - {scope}).pop() in refused.json()["detail"]


async def test_expiry(stranger: httpx.AsyncClient, database: str) -> None:
    """A key that has expired is 401; one that expires soon works until then, though it is known."""

    async def expiring(moment: datetime) -> str:
        async with Database(database, pool_size=1) as pool:
            return await create_key(
                pool, "test", scopes=BOTH_SCOPES, rate_limit=None, expires_at=moment
            )

    now = datetime.now(UTC)
    assert await status(stranger, x_api_key=await expiring(now - timedelta(days=1))) == 401
    soon = await expiring(datetime.now(UTC) + timedelta(seconds=5))
    assert await status(stranger, x_api_key=soon) == 200

    async def expired() -> bool:
        return await status(stranger, x_api_key=soon) == 401

    await until(expired)
    refused = await stranger.get(LINKS, headers={"X-API-KEY": soon})
    assert "expired" in refused.json()["detail"]


async def test_revoked_key_is_refused_within_ten_seconds_everywhere(
    database: str, connection: asyncpg.Connection
) -> None:
    """Every process that knew the key refuses it soon; other keys go on."""
    key, other = await new_key(database), await new_key(database)
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            service = await stack.enter_async_context(Service(database))
            clients.append(await service.client())
        await seed(connection, 1, 1)
        assert [await status(client, x_api_key=key) for client in clients] == [200, 200]
        await connection.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE id = $1", await id_of(connection, key)
        )

        async def refused() -> bool:
            return [await status(client, x_api_key=key) for client in clients] == [401, 401]

        await until(refused, timeout_s=10)
        assert [await status(client, x_api_key=other) for client in clients] == [200, 200]


async def id_of(connection: asyncpg.Connection, key: str) -> str:
    """Return the public id of a key."""
    key_id: str = await connection.fetchval(
        "SELECT id FROM api_keys WHERE hash = sha256($1::text::bytea)", key
    )
    return key_id


async def test_a_key_is_looked_up_once(api: Api, connection: asyncpg.Connection) -> None:
    """However many calls a key makes, the hot path does not ask the database for it."""
    await api.links("doc_1")
    await connection.execute("DELETE FROM api_keys")
    answers = await asyncio.gather(*(api.client.get(LINKS) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}


async def test_only_the_hash_is_stored(api: Api, connection: asyncpg.Connection) -> None:
    """No column of the database holds the key."""
    row = await connection.fetchval("SELECT api_keys::text FROM api_keys")
    assert api.key not in row
    assert api.key.removeprefix("wbk_") not in row
    assert await id_of(connection, api.key)


async def test_a_key_is_let_in_right_after_the_machine_has_started(
    stranger: httpx.AsyncClient, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monotonic clock that began at zero a moment ago does not make a good key an unknown one."""
    clock = SimpleNamespace(monotonic=lambda: 0.001, time=time.time)
    monkeypatch.setattr("service.edge.keys.time", clock)
    assert await status(stranger, x_api_key=await new_key(database)) == 200
