"""Rows of the outbox with arbitrary payloads: the relay publishes a payload without parsing it."""

from uuid import uuid4

import asyncpg

INSERT_EVENTS = """
INSERT INTO outbox (event_id, event_type, key, payload)
SELECT gen_random_uuid(), 'test.event', 'key/' || (n % $2), convert_to(n::text, 'UTF8')
FROM generate_series(1, $1::int) AS n
ORDER BY n
"""


async def insert_events(connection: asyncpg.Connection, count: int, keys: int = 100) -> None:
    """Insert events with the payloads 1 … count, spread over so many keys."""
    await connection.execute(INSERT_EVENTS, count, keys)


async def insert_event(connection: asyncpg.Connection, key: str, payload: str) -> None:
    """Insert one event."""
    await connection.execute(
        "INSERT INTO outbox (event_id, event_type, key, payload) VALUES ($1, 'test.event', $2, $3)",
        uuid4(),
        key,
        payload.encode(),
    )
