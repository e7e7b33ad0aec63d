"""Rows of `workspaces` and `api_keys`: making, finding, listing and revoking keys."""

import hashlib
import secrets
import string
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import asyncpg
from msgspec import Struct

from service.store.database import Database

ALPHABET: Final = string.ascii_letters + string.digits
KEY_LENGTH: Final = 52
ID_LENGTH: Final = 12

FIND: Final = """
SELECT hash, id, workspace_id::text, scopes, rate_limit, extract(EPOCH FROM expires_at)::float8
FROM api_keys
WHERE hash = ANY ($1) AND revoked_at IS NULL
"""

MAKE_WORKSPACE: Final = """
INSERT INTO workspaces (name)
VALUES ($1)
ON CONFLICT (name) DO NOTHING
"""

CREATE: Final = """
INSERT INTO api_keys (id, workspace_id, hash, scopes, rate_limit, expires_at)
SELECT $1, w.id, $2, $3, $4, $5
FROM workspaces AS w
WHERE w.name = $6
"""

LIST_WITHOUT_USES: Final = """
SELECT k.id, w.name, k.scopes, k.rate_limit, k.created_at, k.expires_at, k.revoked_at, NULL::timestamptz
FROM api_keys AS k
JOIN workspaces AS w ON w.id = k.workspace_id
WHERE $1::text IS NULL OR w.name = $1
ORDER BY w.name, k.created_at
"""

LIST: Final = LIST_WITHOUT_USES.replace(
    "NULL::timestamptz", "(SELECT u.last_used_at FROM api_key_uses AS u WHERE u.key_id = k.id)"
)

# $2 seconds since 1970. Sorted, so that two processes cannot deadlock. A key may have been removed since.
RECORD_USES: Final = """
INSERT INTO api_key_uses AS u (key_id, last_used_at)
SELECT k.id, to_timestamp(n.used_at)
FROM unnest($1::text[], $2::float8[]) AS n (id, used_at)
JOIN api_keys AS k ON k.id = n.id
ORDER BY k.id
ON CONFLICT ON CONSTRAINT api_key_uses_pkey DO UPDATE
SET last_used_at = excluded.last_used_at
WHERE u.last_used_at < excluded.last_used_at
"""

REVOKE: Final = """
UPDATE api_keys AS k
SET revoked_at = coalesce(k.revoked_at, now())
FROM api_keys AS before
WHERE k.id = $1 AND before.id = k.id
RETURNING before.revoked_at
"""

# The predecessor's limits, without its end date. A revoked key has no successor.
CREATE_NEXT: Final = """
INSERT INTO api_keys (id, workspace_id, hash, scopes, rate_limit, expires_at)
SELECT $1, k.workspace_id, $2, k.scopes, k.rate_limit, $3
FROM api_keys AS k
WHERE k.id = $4 AND k.revoked_at IS NULL
RETURNING id
"""

# least() ignores NULL. An earlier end date stays.
END: Final = """
UPDATE api_keys
SET expires_at = least(expires_at, $2)
WHERE id = $1
RETURNING expires_at
"""

REVOKE_LOST: Final = """
UPDATE api_keys
SET revoked_at = now()
WHERE hash = $1
"""

WORKSPACE_EXISTS: Final = """
SELECT EXISTS (SELECT FROM workspaces WHERE name = $1)
"""


class Key(Struct, frozen=True):
    """A key that is not revoked; it may have expired."""

    id: str
    workspace_id: str
    scopes: frozenset[str]
    rate_limit: str | None
    expires_at: float | None
    """Seconds since 1970."""


class ListedKey(Struct, frozen=True):
    """A key as operators see it in the list."""

    id: str
    workspace: str
    scopes: list[str]
    rate_limit: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """The beginning of an hour; None: no use is recorded."""


async def find_keys(database: Database, digests: Sequence[bytes]) -> dict[bytes, Key]:
    """Return the keys with these SHA-256 digests, except unknown and revoked ones."""
    async with database.acquire(ahead=True) as connection:
        rows = await connection.fetch(FIND, digests)
    return {
        digest: Key(key_id, workspace, frozenset(scopes), rate_limit, expires_at)
        for digest, key_id, workspace, scopes, rate_limit, expires_at in rows
    }


async def create_key(
    database: Database,
    workspace: str,
    *,
    scopes: Sequence[str],
    rate_limit: str | None,
    expires_at: datetime | None,
) -> str:
    """Make a key for the workspace, and the workspace if it is new; return the key, which is not stored."""
    key, digest, key_id = _new_key()
    async with database.acquire() as connection, connection.transaction():
        await connection.execute(MAKE_WORKSPACE, workspace)
        await connection.execute(CREATE, key_id, digest, scopes, rate_limit, expires_at, workspace)
    return key


async def create_next_key(
    database: Database, key_id: str, *, expires_at: datetime | None
) -> str | None:
    """Make a key with the workspace, scopes and rate limit of another one, which stays as it is.

    Returns the key, which is not stored; None if there is no such key, or if it is revoked.
    """
    key, digest, next_id = _new_key()
    async with database.acquire() as connection:
        made = await connection.fetchval(CREATE_NEXT, next_id, digest, expires_at, key_id)
    return None if made is None else key


async def end_key(database: Database, key_id: str, at: datetime) -> datetime:
    """Let the key expire at that time, unless it expires earlier; return the time at which it expires."""
    async with database.acquire() as connection:
        ends_at: datetime = await connection.fetchval(END, key_id, at)
    return ends_at


async def list_keys(database: Database, workspace: str | None) -> list[ListedKey]:
    """Return the keys of a workspace; None: of all workspaces."""
    async with database.acquire() as connection:
        try:
            rows = await connection.fetch(LIST, workspace)
        except asyncpg.InsufficientPrivilegeError:  # on the table of uses, or on all of them
            rows = await connection.fetch(LIST_WITHOUT_USES, workspace)
    return [ListedKey(*row) for row in rows]


async def record_uses(database: Database, uses: Mapping[str, float]) -> None:
    """Write when each key was last used, in seconds since 1970, unless a later use is recorded."""
    async with database.acquire() as connection:
        await connection.execute(RECORD_USES, list(uses), list(uses.values()))


async def workspace_exists(database: Database, name: str) -> bool:
    """Whether there is a workspace with that name."""
    async with database.acquire() as connection:
        return bool(await connection.fetchval(WORKSPACE_EXISTS, name))


async def revoke_key(database: Database, key_id: str) -> datetime | bool:
    """Revoke the key with that id; every process knows within 10 s.

    Returns False if there is no such key, the time of the first revocation if it was revoked
    before, else True.
    """
    async with database.acquire() as connection:
        row = await connection.fetchrow(REVOKE, key_id)
    return False if row is None else row[0] or True


async def revoke_lost_key(database: Database, key: str) -> None:
    """Revoke a key that was made but could not be shown to anybody."""
    async with database.acquire() as connection:
        await connection.execute(REVOKE_LOST, hashlib.sha256(key.encode()).digest())


def _new_key() -> tuple[str, bytes, str]:
    """Return a key, its SHA-256 digest and its id."""
    key = "wbk_" + _random(KEY_LENGTH)
    return key, hashlib.sha256(key.encode()).digest(), "key_" + _random(ID_LENGTH)


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
