"""COMMITs whose answer is lost, with two hosts in the URL: a missing row on a standby proves nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.postgres import PostgresServer
from service.store.database import Database
from service.store.migrations.apply import migrate
from tests.support.faults.commit import CommitProxy
from tests.support.service.api import Api, new_key, seed, serving
from tests.support.waiting import until

REPLAYED = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn"


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    """Yield a Postgres that can have a standby."""
    with PostgresServer(settings={"fsync": "off", "wal_level": "replica"}) as server:
        yield server


@pytest.fixture
async def standby(primary: PostgresServer) -> PostgresServer:
    """Return a standby that has documents and entities, and has stopped replaying."""
    async with Database(primary.dsn(), pool_size=2) as database:
        await migrate(database)
    connection = await asyncpg.connect(primary.dsn())
    standby = await asyncio.to_thread(primary.make_standby)
    await new_key(primary.dsn())
    await seed(connection, 2, 2)
    await connection.close()
    return standby


@pytest.fixture
async def proxy(primary: PostgresServer) -> AsyncIterator[CommitProxy]:
    """Yield a proxy before the primary."""
    async with CommitProxy(primary.dsn()) as proxy:
        yield proxy


async def linked_once(api: Api, primary: PostgresServer, standby: PostgresServer) -> str:
    """Make a link, wait until the standby has it, and stop the replay; return the link."""
    response = await api.add("doc_1", "ship_1")
    leader, follower = await asyncpg.connect(primary.dsn()), await asyncpg.connect(standby.dsn())
    position = await leader.fetchval("SELECT pg_current_wal_lsn()::text")
    await until(lambda: follower.fetchval(REPLAYED.replace("$1", f"'{position}'")))
    await follower.execute("SELECT pg_wal_replay_pause()")
    await leader.close()
    await follower.close()
    link_id: str = response.json()["data"]["id"]
    return link_id


def both(proxy: CommitProxy, standby: PostgresServer) -> str:
    """Return a URL with two hosts: the proxy before the primary, and the standby."""
    second = urlsplit(standby.dsn())
    first = urlsplit(proxy.dsn)
    netloc = f"{first.netloc},{second.hostname}:{second.port}"
    return first._replace(netloc=netloc).geturl()


@pytest.mark.parametrize("promoted", [False, True])
async def test_a_missing_row_on_a_standby_proves_nothing(
    primary: PostgresServer,
    standby: PostgresServer,
    proxy: CommitProxy,
    monkeypatch: pytest.MonkeyPatch,
    *,
    promoted: bool,
) -> None:
    """An executed unlink is 200, or 503 while only a lagging standby answers; never 404."""
    monkeypatch.setattr("service.store.writing.witness.LOOK_UP_DEADLINE_S", 1.0)
    async with serving(both(proxy, standby)) as api:
        link_id = await linked_once(api, primary, standby)
        if promoted:
            await asyncio.to_thread(standby.promote)
        proxy.break_next("answer lost")
        proxy.refuse()
        answer = await api.unlink("doc_1", link_id)
        assert (proxy.broken, proxy.carried_out) == (1, 1)
        assert answer.status_code == 503, answer.text
        assert "not known" in answer.json()["detail"]
        assert answer.headers["retry-after"]
    connection = await asyncpg.connect(primary.dsn())
    assert await connection.fetchval("SELECT deleted_at IS NOT NULL FROM document_links")
    await connection.close()
