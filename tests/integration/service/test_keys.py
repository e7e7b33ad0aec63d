"""API keys: authentication, scopes and expiry."""

import asyncio
import secrets
import string
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import asyncpg
import httpx
import pytest

from service.edge.gate import keys as edge_keys
from service.store.database import Database
from service.store.keys import Key, create_key, find_keys
from tests.support.service.api import BOTH_SCOPES, Api, Link, Service, new_key, seed
from tests.support.waiting import until

LINKS = "/v1/documents/doc_1/links"
READ, WRITE = BOTH_SCOPES


@pytest.fixture
async def stranger(
    database: str, connection: asyncpg.Connection
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client without a key, of a service with documents and entities."""
    async with Service(database) as service:
        await new_key(database)
        await seed(connection, 1, 1)
        yield await service.client()


async def status(client: httpx.AsyncClient, **headers: str) -> int:
    """Return the status of a list with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await client.get(LINKS, headers=named)).status_code


async def test_either_header_carries_the_key(stranger: httpx.AsyncClient, database: str) -> None:
    """Bearer, in any letter case, and X-API-KEY have the same effect."""
    key = await new_key(database)
    assert await status(stranger, authorization=f"Bearer {key}") == 200
    assert await status(stranger, authorization=f"bearer  {key}") == 200
    assert await status(stranger, x_api_key=key) == 200


async def test_either_header_is_good_for_either_vendors_call(
    stranger: httpx.AsyncClient, database: str
) -> None:
    """Both link calls accept both headers."""
    key = await new_key(database)
    for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-KEY": key}):
        api = Api(stranger, key)
        assert (await api.add("doc_1", "ship_1", headers)).is_success
        assert (await api.link("doc_1", Link("deal", "deal_1"), headers)).is_success


async def test_invalid_key_is_401(stranger: httpx.AsyncClient, database: str) -> None:
    """A missing key, another scheme, form or letter is 401, which says how to send a key."""
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


FOREIGN = [
    ["Basic dXNlcjpwYXNzd29yZA=="],
    ["Bearer eyJhbGciOiJIUzI1NiJ9.e30.abc"],
    ["Bearer {unknown}"],
    ["Bearer {expired}"],
    ['Digest username="a", realm="b"'],
    ["AWS4-HMAC-SHA256 Credential=x/y, SignedHeaders=host, Signature=z"],
    ["Negotiate x", "Basic y"],
    [""],
]


async def test_authorization_of_another_service_is_ignored(
    stranger: httpx.AsyncClient, database: str
) -> None:
    """A valid X-API-KEY is enough, whatever a gateway has put into Authorization."""
    past = datetime.now(UTC) - timedelta(days=1)
    async with Database(database, pool_size=1) as pool:
        expired = await create_key(
            pool, "test", scopes=BOTH_SCOPES, rate_limit=None, expires_at=past
        )
    key = await new_key(database)
    for values in FOREIGN:
        lines = [
            ("Authorization", value.format(unknown=wrong_key(), expired=expired))
            for value in values
        ]
        answer = await stranger.get(LINKS, headers=[*lines, ("X-API-KEY", key)])
        assert answer.status_code == 200, values
        assert (await stranger.get(LINKS, headers=lines)).status_code == 401


async def test_one_valid_key_among_several_lines_is_enough(
    stranger: httpx.AsyncClient, database: str
) -> None:
    """Repeated lines, and lines that a proxy has joined, are searched in order."""
    key, unknown = await new_key(database), wrong_key()
    for lines in (
        [("Authorization", "Basic eDp5"), ("Authorization", f"Bearer {key}")],
        [("Authorization", f"Bearer {key}"), ("Authorization", "Basic eDp5")],
        [("Authorization", f"Basic eDp5, Bearer {key}")],
        [("Authorization", f"BEARER \t {key} ")],
        [("X-API-KEY", unknown), ("X-API-KEY", key)],
        [("X-API-KEY", f"{unknown}, {key}")],
        [("Authorization", f"Bearer {key}"), ("X-API-KEY", "another-service-s")],
        [("Authorization", f"Bearer {key}"), ("X-API-KEY", unknown)],
    ):
        assert (await stranger.get(LINKS, headers=lines)).status_code == 200, lines


async def test_of_two_valid_keys_authorization_counts(
    stranger: httpx.AsyncClient, database: str
) -> None:
    """Of two valid keys the one in Authorization is used."""
    one, other = await new_key(database), await new_key(database, "another")
    headers = [("X-API-KEY", other), ("Authorization", f"Bearer {one}")]
    assert (
        await stranger.get(LINKS, headers=headers)
    ).status_code == 200  # `another` has no document
    swapped = [("X-API-KEY", one), ("Authorization", f"Bearer {other}")]
    assert (await stranger.get(LINKS, headers=swapped)).status_code == 404


def wrong_key() -> str:
    """Return a well-formed key that does not exist."""
    letters = string.ascii_letters + string.digits
    return "wbk_" + "".join(secrets.choice(letters) for _ in range(52))


async def test_hundreds_of_wrong_keys_are_looked_up_together(
    stranger: httpx.AsyncClient, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent wrong keys take one query at a time and few queries; valid keys are served.

    On a busy machine a call may be 503: its look-up took longer than a call waits.
    """
    running: list[int] = []
    most = 0

    async def counted(pool: Database, digests: list[bytes]) -> dict[bytes, Key]:
        nonlocal most
        running.append(len(digests))
        most = max(most, len(running) - finished)
        try:
            return await find_keys(pool, digests)
        finally:
            done()

    finished = 0

    def done() -> None:
        nonlocal finished
        finished += 1

    monkeypatch.setattr(edge_keys, "find_keys", counted)
    monkeypatch.setattr(edge_keys, "MAX_LOOKED_UP", 50)
    known, new = await new_key(database), await new_key(database)
    assert await status(stranger, x_api_key=known) == 200
    flood = [asyncio.create_task(status(stranger, x_api_key=wrong_key())) for _ in range(300)]
    for key in (known, new):
        await until(partial(is_served, stranger, key))
    answers = Counter(await asyncio.gather(*flood))
    assert answers.keys() <= {401, 503}
    assert answers[401]
    assert most == 1
    assert len(running) <= 20
    assert sum(running) <= 302


async def is_served(client: httpx.AsyncClient, key: str) -> bool:
    """Whether a call with the key succeeds."""
    return await status(client, x_api_key=key) == 200


async def test_a_wrong_key_is_looked_up_once(
    stranger: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent calls with one wrong key share one look-up, and later calls its result."""
    asked: list[bytes] = []

    async def noted(pool: Database, digests: list[bytes]) -> dict[bytes, Key]:
        asked.extend(digests)
        return await find_keys(pool, digests)

    monkeypatch.setattr(edge_keys, "find_keys", noted)
    began, wrong = time.monotonic(), wrong_key()
    answers = await asyncio.gather(*(status(stranger, x_api_key=wrong) for _ in range(50)))
    answers += [await status(stranger, x_api_key=wrong)]
    assert set(answers) == {401}
    assert len(asked) <= 1 + (time.monotonic() - began) // edge_keys.UNKNOWN_S


async def test_the_oldest_wrong_key_is_forgotten(
    stranger: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the cache of wrong keys is full, one key is removed, not all."""
    asked = 0

    async def counted(pool: Database, digests: list[bytes]) -> dict[bytes, Key]:
        nonlocal asked
        asked += len(digests)
        return await find_keys(pool, digests)

    monkeypatch.setattr(edge_keys, "find_keys", counted)
    monkeypatch.setattr(edge_keys, "MAX_UNKNOWN", 3)
    monkeypatch.setattr(edge_keys, "UNKNOWN_S", 600.0)
    wrong = [wrong_key() for _ in range(4)]
    for key in wrong:
        await status(stranger, x_api_key=key)
    assert asked == 4
    for key in wrong[1:]:
        await status(stranger, x_api_key=key)
    assert asked == 4  # they are remembered
    await status(stranger, x_api_key=wrong[0])
    assert asked == 5


@pytest.mark.parametrize(("scope", "read", "write"), [(READ, 200, 403), (WRITE, 403, 201)])
async def test_scopes_are_kept_apart(
    stranger: httpx.AsyncClient, database: str, scope: str, read: int, write: int
) -> None:
    """A key with one scope is refused calls of the other; the refusal names the missing scope."""
    headers = {"X-API-KEY": await new_key(database, scopes=[scope])}
    got = await stranger.get(LINKS, headers=headers)
    made = await stranger.post(LINKS, json={"resource_id": "ship_1"}, headers=headers)
    assert (got.status_code, made.status_code) == (read, write)
    (refused,) = [each for each in (got, made) if each.status_code == 403]
    assert refused.json()["code"] == "insufficient_permissions"
    assert ({READ, WRITE} - {scope}).pop() in refused.json()["detail"]


async def test_expiry(stranger: httpx.AsyncClient, database: str) -> None:
    """An expired key is 401; a cached key works until it expires."""

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
    """Each process that has cached a revoked key soon refuses it, and accepts other keys."""
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
    """Calls with a cached key do not query the database for it."""
    await api.links("doc_1")
    await connection.execute("DELETE FROM api_keys")
    answers = await asyncio.gather(*(api.client.get(LINKS) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}


async def test_only_the_hash_is_stored(api: Api, connection: asyncpg.Connection) -> None:
    """No column of the database has the key."""
    row = await connection.fetchval("SELECT api_keys::text FROM api_keys")
    assert api.key not in row
    assert api.key.removeprefix("wbk_") not in row
    assert await id_of(connection, api.key)


async def test_monotonic_clock_near_zero(
    stranger: httpx.AsyncClient, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A valid key is accepted right after a boot, when the monotonic clock is near zero."""
    clock = SimpleNamespace(monotonic=lambda: 0.001, time=time.time)
    monkeypatch.setattr("service.edge.gate.keys.time", clock)
    assert await status(stranger, x_api_key=await new_key(database)) == 200
