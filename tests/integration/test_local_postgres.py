"""The local Postgres: the order in which it is found, crashes, standbys and settings."""

import asyncpg
import pytest

from deploy.local.postgres import PostgresServer, find_postgres

ANOTHER = "postgresql://somebody:secret@db.example:5433/theirs?sslmode=require"


async def fetch(dsn: str, query: str) -> object:
    """Return the first value of a query on a new connection."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def test_the_database_that_the_environment_names_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DATABASE_URL is used unchanged, or with another database."""
    monkeypatch.setenv("DATABASE_URL", ANOTHER)
    with find_postgres() as postgres:
        assert postgres.dsn() == ANOTHER
        assert postgres.dsn("ours") == ANOTHER.replace("theirs", "ours")


async def test_a_crash_loses_nothing_committed() -> None:
    """Committed rows exist after a crash and a restart, at the same address."""
    with PostgresServer() as server:
        await fetch(server.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")
        server.crash()
        with pytest.raises(OSError, match="onnect"):
            await fetch(server.dsn(), "SELECT 1")
        server.start()
        assert await fetch(server.dsn(), "SELECT answer FROM kept") == 42


async def test_a_standby_takes_over() -> None:
    """A standby has the primary's data, is read-only, and accepts writes after the promotion."""
    with PostgresServer() as primary:
        await fetch(primary.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")
        standby = primary.make_standby()
        assert await fetch(standby.dsn(), "SELECT pg_is_in_recovery()") is True
        primary.crash()
        standby.promote()
        assert await fetch(standby.dsn(), "INSERT INTO kept VALUES (43) RETURNING answer") == 43


async def test_settings_reach_the_server() -> None:
    """Settings are in force, and without them the server is durable."""
    with PostgresServer(settings={"work_mem": "12MB"}) as server:
        assert await fetch(server.dsn(), "SHOW work_mem") == "12MB"
        assert await fetch(server.dsn(), "SHOW fsync") == "on"
        assert await fetch(server.dsn(), "SHOW synchronous_commit") == "on"
