"""An app without a database, which can describe itself."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from service.app import build
from service.described.openapi import openapi
from service.settings import read_settings


@pytest.fixture
async def app() -> Starlette:
    """Return the app. asyncpg needs an event loop to make a pool, even if the pool is not opened."""
    return build(read_settings({"DATABASE_URL": "postgresql://nowhere"}))


@pytest.fixture
def document(app: Starlette) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return openapi(app.routes)


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client without a key."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
