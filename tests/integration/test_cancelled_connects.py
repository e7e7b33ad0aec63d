"""An attempt to connect to Postgres that is cancelled at any step leaves no error for asyncio to log."""

import asyncio
import gc
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.store.postgres.connection import Connection, Connector

QUEUED = 20
"""The most attempts that wait until the server forks a process for them: other tests connect to it too."""


@pytest.mark.parametrize(
    ("host", "sslmode"),
    [("localhost", "disable"), ("127.0.0.1", "prefer"), ("localhost", "require")],
)
async def test_a_cancelled_attempt_leaves_no_error(database: str, host: str, sslmode: str) -> None:
    """Each attempt is cancelled one pass of the event loop later, until one ends before it."""
    port = urlsplit(database).port
    url = urlsplit(database)._replace(netloc=f"postgres@{host}:{port}", query=f"sslmode={sslmode}")
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    connector = Connector(url.geturl(), "test", 5, Connection)
    passes = 0
    while await _cancelled_after(passes, connector):
        passes += 1
        if passes % QUEUED == 0:
            accepted_last = await asyncpg.connect(database)
            await accepted_last.close()
    gc.collect()
    assert passes > 2
    assert reported == []


async def _cancelled_after(passes: int, connector: Connector[Connection]) -> bool:
    """Connect, and cancel it after so many passes of the loop; return whether it was still running."""
    attempt = asyncio.create_task(connector.connect())
    for _ in range(passes):
        await asyncio.sleep(0)
    cancelled = attempt.cancel()
    (ended,) = await asyncio.gather(attempt, return_exceptions=True)
    if isinstance(ended, Connection):
        ended.terminate()
    return cancelled
