"""A restored, copied or upgraded database is refused, until `rebase` registers it as the relay's."""

import subprocess

import asyncpg

from deploy.local.postgres import PostgresServer, wheel_bindir
from tests.support.parts import shared
from tests.support.parts.postgres import (
    DATABASE,
    make_database,
    published,
    relayed,
    until_published,
    write,
)
from tests.support.relay import links, outbox, writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon
from tests.support.waiting import until

SLOW_UPDATES = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN new; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION slow();
"""


async def test_dump_and_restore_into_another_cluster(
    server: PostgresServer, kafka: str, topic: str
) -> None:
    """A worker on a restored dump ends with 1, and the worker on the original publishes as before."""
    with PostgresServer() as other:
        async with relayed(server, kafka, topic, "1") as original:
            dump_and_restore(server, other)
            with Worker(other.dsn(DATABASE), kafka, topic) as copy:
                await until(copy.ended)
                assert copy.end() == 1
                assert "rebase" in copy.output()
            await write(server, "2")
            assert await published(kafka, topic, 2) == ["1", "2"]
            assert await original.metric("outbox_fenced_total") == 0


async def test_rebase_makes_a_restored_database_usable(
    server: PostgresServer, kafka: str, topic: str
) -> None:
    """After a dump, a restore and a rebase no event is lost, and only young ones are repeated."""
    with PostgresServer(settings={"shared_buffers": "16MB"}) as other:
        async with relayed(server, kafka, topic, "old") as original:
            await age(server, "1 hour")
            await write(server, "young")
            await published(kafka, topic, 2)
            original.end()
        await write(server, "unpublished")
        await age(server, "1 minute")
        dump_and_restore(server, other)
        with Worker(other.dsn(DATABASE), kafka, topic) as worker:
            assert worker.command("rebase", "--json") == 1  # without --yes
            assert worker.command("rebase", "--yes", "--json") == 0, worker.output()
            worker.end()
            worker.start()
            await worker.wait_event("relay.started", source="checkpoint")
            await write(other, "new")
            await until_published(worker, kafka, topic, "new")
            assert worker.command("rebase", "--yes") == 1  # not needed any more
        values = await published(kafka, topic, 5)
    assert values == ["old", "young", "young", "unpublished", "new"]


async def age(server: PostgresServer, interval: str) -> None:
    """Make all events at least so old."""
    await shared.execute(
        server.dsn(DATABASE),
        f"UPDATE outbox SET created_at = now() - interval '{interval}'"
        f" WHERE created_at > now() - interval '{interval}'",
    )


async def test_pg_upgrade(kafka: str, topic: str) -> None:
    """A database is refused after pg_upgrade; after the rebase each event is published once."""
    with PostgresServer(wheel_bindir("pginstall")) as older:
        await make_database(older)
        await writers.prepare(older.dsn(DATABASE))
        with Worker(older.dsn(DATABASE), kafka, topic) as worker:
            await link(older, worker)
            await reckon(older.dsn(DATABASE), kafka, topic)
            worker.end()
        await link_unpublished(older)
        await age(older, "1 hour")
        before = await topics.payloads(kafka, topic)
        newer = older.upgrade()
        with Worker(newer.dsn(DATABASE), kafka, topic) as worker:
            await until(worker.ended)
            assert worker.end() == 1
            assert "rebase" in worker.output()
            assert await topics.payloads(kafka, topic) == before
            assert worker.command("rebase", "--yes") == 0, worker.output()
            worker.start()
            await worker.wait_event("relay.started", source="checkpoint")
            await link(newer, worker)
            await reckon(newer.dsn(DATABASE), kafka, topic)


async def link(server: PostgresServer, worker: Worker) -> None:
    """Toggle links until the worker has published 300 events."""
    async with writers.writing(server.dsn(DATABASE)):
        await worker.wait_published(300)


async def link_unpublished(server: PostgresServer) -> None:
    """Toggle one link of every document while no worker runs."""
    connection = await asyncpg.connect(server.dsn(DATABASE))
    for number in range(1, writers.DOCUMENTS + 1):
        await links.toggle(connection, f"doc_{number}", "1")
    await connection.close()


async def test_rebase_is_refused_while_somebody_writes(
    server: PostgresServer, kafka: str, topic: str
) -> None:
    """A copy with a new event, or with a transaction that writes one, is not rebased."""
    async with relayed(server, kafka, topic, "1") as worker:
        worker.end()
        await shared.execute(server.dsn(), f"CREATE DATABASE copy TEMPLATE {DATABASE}")
        copy = Worker(server.dsn("copy"), kafka, topic)
        connection = await asyncpg.connect(server.dsn("copy"))
        await connection.execute("UPDATE outbox SET created_at = now() + interval '1 minute'")
        assert copy.command("rebase", "--yes") == 1
        assert "events were written" in copy.output()
        async with connection.transaction():
            await outbox.insert_event(connection, "key", "2")
            assert copy.command("rebase", "--yes") == 1
            assert "a transaction is writing" in copy.output()
        await connection.close()


async def test_rebase_is_refused_while_a_worker_leads(
    server: PostgresServer, kafka: str, topic: str
) -> None:
    """While a worker leads on the database, a rebase is refused; after the worker's end it is accepted."""
    async with relayed(server, kafka, topic, "1") as worker:
        await shared.execute(
            server.dsn(DATABASE), "UPDATE outbox_relay SET system_identifier = '1'"
        )
        await age(server, "1 minute")
        assert worker.command("rebase", "--yes") == 1
        assert "a worker leads" in worker.output()
        worker.end()
        assert worker.command("rebase", "--yes") == 0, worker.output()


async def test_rebase_updates_every_slot_without_a_statement_timeout(
    server: PostgresServer, kafka: str, topic: str
) -> None:
    """Old rows of three days get the xid 2, although that takes longer than statement_timeout."""
    async with relayed(server, kafka, topic, "1", "2", "3") as worker:
        worker.end()
        await age(server, "1 hour")
        await write(server, "4")
        await age(server, "1 minute")
        connection = await asyncpg.connect(server.dsn(DATABASE))
        await connection.execute("UPDATE outbox SET slot = position")
        await connection.execute("UPDATE outbox_relay SET system_identifier = '1'")
        await connection.execute(SLOW_UPDATES)
        await connection.execute(f"ALTER DATABASE {DATABASE} SET statement_timeout = '500ms'")
        assert worker.command("rebase", "--yes") == 0, worker.output()
        rows = await connection.fetch("SELECT slot, xid = '2'::xid8 FROM outbox ORDER BY slot")
        assert [tuple(row) for row in rows] == [(1, True), (2, True), (3, True), (4, False)]
        await connection.close()


def dump_and_restore(source: PostgresServer, target: PostgresServer) -> None:
    """Copy the database with pg_dump and psql."""
    dump = subprocess.run(
        [source.bindir / "pg_dump", "--create", source.dsn(DATABASE)],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        [target.bindir / "psql", "-q", "-v", "ON_ERROR_STOP=1", target.dsn()],
        input=dump.stdout, check=True, capture_output=True,
    )  # fmt: skip
