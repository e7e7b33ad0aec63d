"""COMMITs whose answer is lost: callers get the true outcome, and nothing is written twice."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import pytest

from tests.support.faults.commit import CommitProxy, Fault
from tests.support.service.api import Api, Link, new_key, seed, serving
from tests.support.service.locks import waiters, waiting
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import until

KEYED = {"Idempotency-Key": "k"}
"""With a key, a link has a BEGIN and a COMMIT; without, it may be one statement."""
CERTAIN: list[Fault] = ["command lost", "answer lost"]
IN_TRANSACTION = """
SELECT count(*)
FROM pg_stat_activity
WHERE state = 'idle in transaction' AND datname = current_database()
"""
CHANGE = """
BEGIN;
LOCK TABLE documents IN EXCLUSIVE MODE; -- first in, first out; the waits for a row that was updated are not
UPDATE documents SET revision = revision + 1, updated_at = clock_timestamp() WHERE id = 'doc_1';
COMMIT
"""
END_SESSIONS = """
SELECT count(pg_terminate_backend(pid))
FROM pg_stat_activity
WHERE application_name = 'document-links' AND datname = current_database()
"""


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[CommitProxy]:
    """Yield a proxy that breaks connections at COMMIT."""
    async with CommitProxy(database) as proxy:
        yield proxy


@pytest.fixture
async def api(
    proxy: CommitProxy, database: str, connection: asyncpg.Connection
) -> AsyncIterator[Api]:
    """Yield a client of a service behind the proxy."""
    key = await new_key(database)
    await seed(connection, 20, 20)
    async with serving(proxy.dsn) as api:
        api.client.headers["X-API-KEY"] = key
        assert await api.links("doc_1") == []
        yield api


@pytest.mark.parametrize("fault", CERTAIN)
async def test_a_new_link_is_answered_as_new(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection, fault: Fault
) -> None:
    """Whether the COMMIT was executed or not, the answer is 201, with one row and one event."""
    proxy.break_next(fault)
    response = await api.add("doc_1", "ship_1")
    assert (proxy.broken, proxy.carried_out) == (1, fault == "answer lost")
    assert response.status_code == 201
    (link,) = await api.links("doc_1")
    assert link["id"] == response.json()["data"]["id"]
    assert len(await read_outbox(connection)) == 1
    await check_outbox(connection)


@pytest.mark.parametrize("fault", CERTAIN)
async def test_a_removed_link_is_answered_as_removed(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection, fault: Fault
) -> None:
    """An executed unlink is not repeated, which would be 404."""
    link_id = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    proxy.break_next(fault)
    response = await api.unlink("doc_1", link_id)
    assert (proxy.broken, proxy.carried_out) == (1, fault == "answer lost")
    assert response.status_code == 200
    assert len(await read_outbox(connection)) == 2
    await check_outbox(connection)


@pytest.mark.parametrize("fault", CERTAIN)
async def test_each_request_of_a_group_gets_its_answer(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection, fault: Fault
) -> None:
    """The requests of one transaction get their own answers, a refused one too."""
    await api.add("doc_1", "ship_1")
    proxy.break_next(fault)
    calls = [api.add(f"doc_{number}", "ship_1") for number in range(1, 11)]
    answers = await asyncio.gather(*calls, api.add("doc_1", "ship_none"))
    assert (proxy.broken, proxy.carried_out) == (1, fault == "answer lost")
    assert [answer.status_code for answer in answers] == [200, *[201] * 9, 404]
    assert len(await read_outbox(connection)) == 10
    await check_outbox(connection)


@pytest.mark.parametrize("fault", CERTAIN)
async def test_a_document_is_made_once(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection, fault: Fault
) -> None:
    """PUT of a new document is 201, although no event proves the commit."""
    proxy.break_next(fault)
    response = await api.client.put("/v1/documents/new", json={"display_name": "New"})
    assert (proxy.broken, proxy.carried_out) == (1, fault == "answer lost")
    assert response.status_code == 201
    assert await connection.fetchval("SELECT revision FROM documents WHERE id = 'new'") == 1


@pytest.mark.parametrize("fault", CERTAIN)
async def test_an_entity_is_registered_once(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection, fault: Fault
) -> None:
    """PUT of a new entity is 201."""
    proxy.break_next(fault)
    response = await api.client.put("/v1/entities/deal/new")
    assert (proxy.broken, proxy.carried_out) == (1, fault == "answer lost")
    assert response.status_code == 201
    assert await connection.fetchval("SELECT count(*) FROM entities WHERE id = 'new'") == 1


@pytest.mark.parametrize("fault", CERTAIN)
async def test_a_key_makes_no_replay_of_the_first_answer(
    api: Api, proxy: CommitProxy, fault: Fault
) -> None:
    """The first call with an Idempotency-Key is not marked as a replay; the second one is."""
    proxy.break_next(fault)
    first = await api.add("doc_1", "ship_1", KEYED)
    second = await api.add("doc_1", "ship_1", KEYED)
    assert (proxy.broken, first.status_code, second.status_code) == (1, 201, 201)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert first.content == second.content


async def test_a_commit_that_comes_late_is_waited_for(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection
) -> None:
    """While the transaction may still commit, the call is neither answered nor retried."""
    proxy.break_next("command late")
    call = asyncio.create_task(api.add("doc_1", "ship_1", KEYED))

    async def held() -> bool:
        return bool(proxy.broken == 1 and await connection.fetchval(IN_TRANSACTION) == 1)

    await until(held)
    done, _ = await asyncio.wait({call}, timeout=0.3)
    assert not done
    proxy.let_go.set()
    assert (await call).status_code == 201
    assert len(await read_outbox(connection)) == 1
    await check_outbox(connection)


async def test_an_unknown_outcome_is_503(
    api: Api, proxy: CommitProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the outcome is not found out in time, the answer is 503 and says that it is not known."""
    monkeypatch.setattr("service.store.writing.witness.LOOK_UP_DEADLINE_S", 0.2)
    proxy.break_next("command late")
    response = await api.link("doc_1", Link("deal", "deal_1"))
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert "not known" in response.json()["detail"]
    proxy.let_go.set()


async def test_a_lone_link_that_comes_late_is_not_written_twice(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection
) -> None:
    """The statement reaches the server after the call was retried and answered, and writes nothing."""
    proxy.break_next("command late")
    response = await api.add("doc_1", "ship_1")
    assert (proxy.broken, response.status_code) == (1, 201)
    proxy.let_go.set()

    async def executed() -> bool:
        return proxy.carried_out == 1

    await until(executed)
    assert len(await read_outbox(connection)) == 1
    await check_outbox(connection)


async def test_a_refused_link_is_not_written_later(api: Api, proxy: CommitProxy) -> None:
    """A statement that comes late writes nothing, though what its call was refused for is there now."""
    proxy.break_next("command late")
    assert (await api.add("doc_1", "ship_new")).status_code == 404
    assert (await api.client.put("/v1/entities/shipment/ship_new")).status_code == 201
    proxy.let_go.set()

    async def executed() -> bool:
        return proxy.carried_out == 1

    await until(executed)
    assert await api.links("doc_1") == []


@pytest.mark.parametrize("changed", [False, True])
async def test_a_lone_link_that_is_being_written_is_waited_for(
    api: Api, proxy: CommitProxy, database: str, connection: asyncpg.Connection, *, changed: bool
) -> None:
    """The look-up waits for the lock of the statement, and the caller gets the reply that was lost.

    If another transaction has changed the document since, its revision after the link is not known any
    more, and the reply has no ETag.
    """
    blocker, other = await asyncpg.connect(database), await asyncpg.connect(database)
    await blocker.execute("BEGIN; LOCK TABLE document_links IN SHARE MODE")
    proxy.let_go.set()
    proxy.break_next("command late")
    call = asyncio.create_task(api.add("doc_1", "ship_1"))
    await until(partial(waiting, connection, 1))  # the statement has its other locks
    change = asyncio.create_task(other.execute(CHANGE if changed else "SELECT 1"))
    await until(partial(waiting, connection, sessions := 3 if changed else 2))
    earlier = await waiters(connection)

    async def look_up_waits_again() -> bool:
        now = await waiters(connection)
        return len(now) == sessions and now != earlier

    # The look-up waits 1 s for the lock; after that it waits on another session, behind the change.
    await until(look_up_waits_again)
    assert not call.done()
    await blocker.execute("ROLLBACK")
    response = await call
    await change
    assert (proxy.broken, response.status_code) == (1, 201)
    assert response.headers.get("etag") == (None if changed else '"2"')
    (link,) = await api.links("doc_1")
    assert link["id"] == response.json()["data"]["id"]
    assert link["created_at"] == response.json()["data"]["created_at"]
    assert len(await read_outbox(connection)) == 1
    await check_outbox(connection)
    for session in (blocker, other):
        await session.close()


@pytest.mark.parametrize("lingering", [False, True])
async def test_an_ended_session_is_replaced(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection, *, lingering: bool
) -> None:
    """After a DBA has ended all sessions the next write succeeds, even if connections stay open."""
    await api.add("doc_1", "ship_1")
    if lingering:
        proxy.passes_ends_on.clear()
    sessions = await connection.fetchval(END_SESSIONS)

    async def told() -> bool:
        return bool(proxy.ended >= sessions > 0)

    await until(told)
    await check_outbox(connection)  # a round trip, in which the service's end hears it too
    assert (await api.add("doc_2", "ship_1")).status_code == 201
    proxy.passes_ends_on.set()
    await check_outbox(connection)
    assert len(await read_outbox(connection)) == 2
