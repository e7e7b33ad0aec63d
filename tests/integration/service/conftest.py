"""A service, a database session beside it, documents and entities."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.service.api import Api, seed, serving


@pytest.fixture
async def api(database: str, connection: asyncpg.Connection) -> AsyncIterator[Api]:
    """Yield a client of a service with doc_1 … doc_20 and, of three types, entities 1 … 20."""
    async with serving(database) as api:
        await seed(connection, 20, 20)
        yield api
