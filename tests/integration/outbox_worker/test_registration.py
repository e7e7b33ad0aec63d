"""The registration of a relay, on the schema of this release and on that of an earlier one."""

from typing import NamedTuple

import asyncpg
import pytest

from outbox_worker.operator import doctor
from outbox_worker.operator.state import Status, add_database
from outbox_worker.postgres.registration import (
    Registration,
    read_cluster_identity,
    register,
    registered,
)
from outbox_worker.settings import Settings, read
from service.store.database import Database
from service.store.migrations.apply import migrate
from tests.support.parts.shared import execute
from tests.support.releases.history import RELEASES, schema_of

BEFORE = """
INSERT INTO outbox_relay (name, system_identifier, database_oid, topic_partitions)
VALUES ('0123456789abcdef', '1', 1, 12)
"""
"""The registration by a worker of the release before."""


class Codecs(NamedTuple):
    """The recorded codec, and that of the environment; empty: none."""

    recorded: str = ""
    setting: str = ""


def settings(dsn: str, kafka: str, **more: str) -> Settings:
    """Return a worker's settings."""
    return read({"DATABASE_URL": dsn, "KAFKA_BOOTSTRAP_SERVERS": kafka, **more})


async def register_here(connection: asyncpg.Connection) -> Registration:
    """Register a relay as the first start does."""
    return await register(connection, await read_cluster_identity(connection), 12)


async def test_a_new_registration_records_zstd(connection: asyncpg.Connection) -> None:
    """The first start records zstd, and a second registration returns the first one."""
    first = await register_here(connection)
    assert first.compression == "zstd"
    assert await register_here(connection) == first == await registered(connection)
    row = await connection.fetchrow(
        "SELECT created_at = now() AS today, singleton FROM outbox_relay"
    )
    assert row is not None
    assert (row["today"], row["singleton"]) == (False, True)


async def test_a_worker_of_the_release_before_records_none(connection: asyncpg.Connection) -> None:
    """It does not name the column, and publishes without compression: the column's default is true of it."""
    await connection.execute(BEFORE)
    found = await registered(connection)
    assert found is not None
    assert found.compression == "none"


@pytest.mark.parametrize("version", RELEASES)
async def test_a_relay_of_an_older_schema_keeps_none(empty_database: str, version: int) -> None:
    """This worker registers on an older schema too; after the migration the relay compresses nothing."""
    await execute(empty_database, schema_of(version))
    connection = await asyncpg.connect(empty_database)
    try:
        before = await register_here(connection)
        async with Database(empty_database, pool_size=2) as database:
            await migrate(database)
        after = await registered(connection)
    finally:
        await connection.close()
    assert before == after
    assert before.compression == "none"


@pytest.mark.parametrize(
    ("codecs", "told"),
    [
        (Codecs(), "zstd (the default, which the first start records)"),
        (Codecs("none"), "none (recorded in outbox_relay)"),
        (Codecs("zstd"), "zstd (recorded in outbox_relay)"),
        (Codecs("zstd", "none"), "none (OUTBOX_COMPRESSION)"),
        (Codecs("none", "lz4"), "lz4 (OUTBOX_COMPRESSION)"),
    ],
)
async def test_status_and_doctor_tell_the_codec_and_why(
    database: str, kafka: str, connection: asyncpg.Connection, codecs: Codecs, told: str
) -> None:
    """The setting is in force if there is one, else the recorded codec; both commands tell which."""
    if codecs.recorded:
        await register_here(connection)
        await connection.execute("UPDATE outbox_relay SET compression = $1", codecs.recorded)
    here = settings(database, kafka, OUTBOX_COMPRESSION=codecs.setting)
    status = Status("exactly-once")
    await add_database(status, connection, here)
    assert f"{status.compression} ({status.compression_reason})" == told
    checks = {check.name: check for check in (await doctor.examine(here)).checks}
    assert (checks["compression"].found, checks["compression"].passed) == (told, True)
