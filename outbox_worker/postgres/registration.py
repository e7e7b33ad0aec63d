"""The registration: which relay owns this outbox, and in which database cluster it was registered.

It is the only row of outbox_relay, made by the worker's first start.
"""

import secrets

import asyncpg
import msgspec

from outbox_worker.postgres.sessions import pooled

KNOWN_SCHEMA = 4
"""The newest schema that this worker knows; it can run on any older one."""
NO_SCHEMA = (
    "the database has no schema of this program: run `python -m service migrate`; if that was done, "
    "correct the search_path of the role or the database"
)
POOLED = "a transaction pooler is in the way"
POOLED_MEND = "set OUTBOX_SESSION_DATABASE_URL to the server itself"

DATABASE_OID = """
SELECT oid::bigint
FROM pg_database
WHERE datname = current_database()
"""

SYSTEM_IDENTIFIER = """
SELECT system_identifier::text
FROM pg_control_system()
"""

# The timeline on which WAL is written now. The last checkpoint's may still be that before a failover.
TIMELINE = """
SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
"""

LAST_CHECKPOINTS_TIMELINE = """
SELECT upper(lpad(to_hex(timeline_id), 8, '0'))
FROM pg_control_checkpoint()
"""

# Errors of a managed Postgres that does not have a function, or does not permit it.
NOT_OFFERED = (
    asyncpg.UndefinedFunctionError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InsufficientPrivilegeError,
)
UNREADABLE = "unreadable"

# The oldest schema whose programs can run on this one.
OLDEST_PROGRAMS = """
SELECT max(version)
FROM schema_version
"""

# Schemas before the fourth have no column `compression`, so neither statement names it. Their relays
# compress nothing.
REGISTERED = """
SELECT name, system_identifier, database_oid::bigint AS database_oid, topic_partitions,
    coalesce(to_jsonb(r) ->> 'compression', 'none') AS compression
FROM outbox_relay AS r
"""

# Of two first starts at the same time one inserts its row, and both read it. jsonb_populate_record leaves out
# what the table has no column for.
REGISTER = """
INSERT INTO outbox_relay
SELECT r.*
FROM jsonb_populate_record(
    NULL::outbox_relay,
    jsonb_build_object(
        'singleton', true,
        'name', $1::text,
        'system_identifier', $2::text,
        'database_oid', $3::bigint,
        'topic_partitions', $4::integer,
        'created_at', now(),
        'compression', $5::text
    )
) AS r
ON CONFLICT ON CONSTRAINT outbox_relay_pkey DO NOTHING
"""
DEFAULT_COMPRESSION = "zstd"
"""The codec of a relay that is registered by this release. A relay that existed before keeps `none`."""


class RefusedError(Exception):
    """The worker cannot work with this database or this connection, and a retry would not help."""


class ClusterIdentity(msgspec.Struct, frozen=True):
    """The cluster, the database and the timeline of an xid: others' xids cannot be compared with it."""

    system_identifier: str
    database_oid: int
    timeline: str

    def undetected(self) -> list[str]:
        """Return what the worker cannot detect, because the server does not tell its identity."""
        return [
            *(["a copy of this database"] if self.system_identifier == UNREADABLE else []),
            *(["a failover that lost commits"] if self.timeline == UNREADABLE else []),
        ]


class Registration(msgspec.Struct, frozen=True):
    """The relay's name, the database that it is registered for, and the partitions that keys hash to.

    `compression` is the codec of a worker that has no setting for it.
    """

    name: str
    system_identifier: str
    database_oid: int
    partitions: int
    compression: str = DEFAULT_COMPRESSION

    def progress_topic(self, topic: str) -> str:
        """Return the name of the topic that holds the relay's progress."""
        return f"{topic}.progress.{self.name}"

    def check(self, cluster: ClusterIdentity) -> None:
        """Raise RefusedError in a copy of the database: its relay would fence the original's."""
        database = (cluster.system_identifier, cluster.database_oid)
        if (self.system_identifier, self.database_oid) != database:
            message = (
                f"relay {self.name} belongs to another database, of which this one is a copy, a "
                "restored dump or an upgrade; if the other one no longer runs, run: "
                "python -m outbox_worker rebase"
            )
            raise RefusedError(message)


async def check_session(connection: asyncpg.Connection, url: str) -> None:
    """Raise RefusedError behind a transaction pooler: locks, LISTEN and SET last for a session."""
    if await pooled(connection, url):
        message = f"{POOLED}: {POOLED_MEND}"
        raise RefusedError(message)


async def check_schema(connection: asyncpg.Connection) -> None:
    """Check the version of the schema.

    Raises:
        RefusedError: this worker can no longer run on the schema.
        UndefinedTableError: there is no schema yet; the text names the command that makes it.
    """
    try:
        oldest = await connection.fetchval(OLDEST_PROGRAMS)
    except asyncpg.UndefinedTableError as error:
        raise asyncpg.UndefinedTableError(NO_SCHEMA) from error
    if oldest > KNOWN_SCHEMA:
        message = (
            f"only programs for schema {oldest} or later can run on this database, and this worker "
            f"is for {KNOWN_SCHEMA}: update it"
        )
        raise RefusedError(message)


async def registered(connection: asyncpg.Connection) -> Registration | None:
    """Return the registration; None before the first start."""
    row = await connection.fetchrow(REGISTERED)
    return None if row is None else Registration(*row)


async def required(connection: asyncpg.Connection) -> Registration:
    """Return the registration; RefusedError before the first start."""
    registration = await registered(connection)
    if registration is None:
        message = "this outbox has never been relayed: start the worker first"
        raise RefusedError(message)
    return registration


async def register(
    connection: asyncpg.Connection, cluster: ClusterIdentity, partitions: int
) -> Registration:
    """Insert the registration unless there is one; return the registration of the database."""
    name = secrets.token_hex(8)
    await connection.execute(
        REGISTER,
        name,
        cluster.system_identifier,
        cluster.database_oid,
        partitions,
        DEFAULT_COMPRESSION,
    )
    return await required(connection)


async def read_cluster_identity(connection: asyncpg.Connection) -> ClusterIdentity:
    """Return the identity of this database; a part that the server does not tell is `unreadable`."""
    return ClusterIdentity(
        await _first_offered(connection, SYSTEM_IDENTIFIER),
        await connection.fetchval(DATABASE_OID),
        await _first_offered(connection, TIMELINE, LAST_CHECKPOINTS_TIMELINE),
    )


async def _first_offered(connection: asyncpg.Connection, *queries: str) -> str:
    for query in queries:
        try:
            return str(await connection.fetchval(query))
        except NOT_OFFERED:
            continue
    return UNREADABLE
