"""Postgres crashes, is restored or fails over: no event is lost, and the log says what happened."""

import shutil
import signal
from pathlib import Path

import asyncpg

from deploy.local.postgres import PostgresServer
from tests.support.faults.postgres import PostgresProxy
from tests.support.parts import shared
from tests.support.parts.postgres import (
    DATABASE,
    END_SESSIONS,
    hold,
    make_database,
    published,
    relayed,
    until_published,
    write,
)
from tests.support.parts.volume import base_backup, restore
from tests.support.relay.worker import Worker
from tests.support.waiting import until


async def next_xid(server: PostgresServer) -> int:
    """Assign an xid to a transaction and return it."""
    connection = await asyncpg.connect(server.dsn(DATABASE))
    xid: int = await connection.fetchval("SELECT pg_current_xact_id()")
    await connection.close()
    return xid


async def abort_transactions(server: PostgresServer, count: int) -> int:
    """Roll back transactions with an xid, whose WAL is not flushed; return the last xid."""
    connection = await asyncpg.connect(server.dsn(DATABASE))
    last = 0
    for _ in range(count):
        transaction = connection.transaction()
        await transaction.start()
        last = await connection.fetchval("SELECT pg_current_xact_id()")
        await transaction.rollback()
    await connection.close()
    return last


async def test_crash_after_which_xids_are_assigned_again(
    server: PostgresServer, kafka: str, topic: str, delivery: str
) -> None:
    """Events of transactions that got the xid of a lost transaction are published once."""
    with Worker(server.dsn(DATABASE), kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        worker.pause()
        # The WAL writer's pause of 10 s begins again.
        await shared.execute(server.dsn(), "SELECT pg_reload_conf()")
        await write(server, "before")
        lost = await abort_transactions(server, 50)
        worker.resume()
        assert await published(kafka, topic, 1) == ["before"]
        server.crash()
        server.start()
        assert await next_xid(server) < lost
        after = [f"after {n}" for n in range(30)]
        await write(server, *after)
        await hold(worker, kafka, topic, delivery, ["before", *after])


async def test_volume_rolled_back(
    server: PostgresServer, kafka: str, topic: str, delivery: str, tmp_path: Path
) -> None:
    """On an older copy of the files the worker starts from the checkpoint in this copy."""
    async with relayed(server, kafka, topic, "kept 1", OUTBOX_DELIVERY=delivery) as worker:
        worker.end()
        server.stop()
        shutil.copytree(server.data_dir, tmp_path / "volume")
        server.start()
        worker.start()
        await worker.leading()
        await write(server, "undone 1", "undone 2")
        await until_published(worker, kafka, topic, "undone 2")
        worker.end()
        server.stop()
        restore(tmp_path / "volume", server)
        server.start()
        worker.start()
        started = await worker.wait_event("relay.started", level="warning")
        assert (started["source"], started["reason"]) == (
            "checkpoint",
            "the database has gone back in time",
        )
        await write(server, "kept 2", "kept 3")
        values = ["kept 1", "undone 1", "undone 2", "kept 2", "kept 3"]
        await hold(worker, kafka, topic, delivery, values)


async def test_volume_that_lost_its_last_commits(
    server: PostgresServer, kafka: str, topic: str, delivery: str, tmp_path: Path
) -> None:
    """On a copy with the record's checkpoint, but without its last event, the worker uses the checkpoint.

    A replica of a volume that is replicated asynchronously can be in this state.
    """
    volume = tmp_path / "volume"
    async with relayed(server, kafka, topic, "kept 1", OUTBOX_DELIVERY=delivery) as worker:
        base_backup(server, volume)
        await write(server, "undone")
        await published(kafka, topic, 2)
        worker.end(signal.SIGKILL)
        server.stop()
        restore(volume, server)
        server.start()
        await write(server, "kept 2", "kept 3")
        worker.start()
        await worker.wait_event("relay.started", source="checkpoint", level="warning")
        await until_published(worker, kafka, topic, "kept 3")
        values = await published(kafka, topic, 4)
    assert list(dict.fromkeys(values)) == ["kept 1", "undone", "kept 2", "kept 3"]


async def test_failover_to_a_standby_that_lost_commits(
    server: PostgresServer, kafka: str, topic: str, delivery: str
) -> None:
    """On a promoted standby that lacks commits the worker starts from the checkpoint."""
    async with (
        PostgresProxy(server.dsn(DATABASE)) as proxy,
        relayed(
            server, kafka, topic, "kept 1", DATABASE_URL=proxy.dsn, OUTBOX_DELIVERY=delivery
        ) as worker,
    ):
        standby = server.make_standby()
        await write(server, "kept 2")
        await published(kafka, topic, 2)
        await caught_up(server, standby)
        await shared.execute(standby.dsn(), "ALTER SYSTEM SET primary_conninfo = ''")
        await shared.execute(standby.dsn(), "SELECT pg_reload_conf()")
        await until(lambda: has_no_receiver(standby))
        await write(server, "lost 1", "lost 2")
        await published(kafka, topic, 4)
        server.crash()
        standby.promote()
        proxy.target = ("127.0.0.1", standby.port)
        started = await worker.wait_event("relay.started", source="checkpoint", level="warning")
        assert "timeline" in started["reason"]
        await write(standby, "kept 3")
        await until_published(worker, kafka, topic, "kept 3")
        values = await published(kafka, topic, 5)
    assert list(dict.fromkeys(values)) == ["kept 1", "kept 2", "lost 1", "lost 2", "kept 3"]
    assert values[-1] == "kept 3"


async def caught_up(primary: PostgresServer, standby: PostgresServer) -> None:
    """Return once the standby has replayed the primary's WAL."""
    connection = await asyncpg.connect(primary.dsn())
    end = await connection.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    await connection.close()
    replica = await asyncpg.connect(standby.dsn())

    async def look() -> bool:
        return bool(
            await replica.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", end)
        )

    await until(look)
    await replica.close()


async def has_no_receiver(standby: PostgresServer) -> bool:
    """Whether the standby has no connection to the primary any more."""
    connection = await asyncpg.connect(standby.dsn())
    count = await connection.fetchval("SELECT count(*) FROM pg_stat_wal_receiver")
    await connection.close()
    return bool(count == 0)


async def test_point_in_time_restore(kafka: str, topic: str, delivery: str) -> None:
    """After a restore to an earlier time the worker starts from the checkpoint of that time."""
    with PostgresServer(settings={"archive_mode": "on", "max_wal_senders": "4"}) as server:
        await make_database(server)
        archive = server.data_dir.with_name("archive")
        backup = server.data_dir.with_name("backup")
        make_folder(archive, server)
        await shared.execute(
            server.dsn(),
            f"ALTER SYSTEM SET archive_command = 'cp %p {archive}/%f'",
            "SELECT pg_reload_conf()",
        )
        async with relayed(server, kafka, topic, "kept 1", OUTBOX_DELIVERY=delivery) as worker:
            base_backup(server, backup)
            await write(server, "kept 2")
            await shared.execute(server.dsn(), "SELECT pg_create_restore_point('here')")
            await write(server, "undone")
            await published(kafka, topic, 3)
            await shared.execute(server.dsn(), "SELECT pg_switch_wal()")
            server.stop()
            with (backup / "postgresql.conf").open("a") as conf:
                conf.write(f"restore_command = 'cp {archive}/%f %p'\n")
                conf.write("recovery_target_name = 'here'\nrecovery_target_action = promote\n")
            (backup / "recovery.signal").touch()
            restore(backup, server)
            server.start()
            await worker.wait_event("relay.started", source="checkpoint", level="warning")
            await write(server, "kept 3")
            await until_published(worker, kafka, topic, "kept 3")
        values = await published(kafka, topic, 4)
    assert list(dict.fromkeys(values)) == ["kept 1", "kept 2", "undone", "kept 3"]


def make_folder(folder: Path, server: PostgresServer) -> None:
    """Make a folder in which the server may write."""
    folder.mkdir()
    owner = server.data_dir.stat()
    shutil.chown(folder, owner.st_uid, owner.st_gid)


async def test_worker_on_a_standby_waits(server: PostgresServer, kafka: str, topic: str) -> None:
    """A worker whose URL leads to a standby logs why it waits, and leads after the promotion."""
    standby = server.make_standby()
    with Worker(standby.dsn(DATABASE), kafka, topic) as worker:
        failing = await worker.wait_event("worker.failing")
        assert "standby" in failing["detail"]
        server.crash()
        standby.promote()
        await worker.leading()
        await write(standby, "1")
        assert await published(kafka, topic, 1) == ["1"]


async def test_connections_terminated(
    server: PostgresServer, kafka: str, topic: str, delivery: str
) -> None:
    """A worker whose sessions are ended connects again; exactly once it repeats nothing."""
    with Worker(server.dsn(DATABASE), kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        for n in range(5):
            await write(server, str(n))
            await shared.execute(server.dsn(DATABASE), END_SESSIONS)
            await until_published(worker, kafka, topic, str(n))
        await hold(worker, kafka, topic, delivery, [str(n) for n in range(5)])
