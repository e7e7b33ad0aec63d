"""Debezium on a project's outbox, by the configuration that we ship for it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from tests.benchmarks.peers.connect import Connect
from tests.support.waiting import until

SHIPPED = Path(__file__).parents[3] / "deploy" / "debezium"
SLOT_IS_FREE = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = $1"


class Source:
    """A database's publication and slot: what is written from now on waits for a connector."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.name = f"dbz_{uuid4().hex}"

    async def __aenter__(self) -> Self:
        """Make both, as shipped but for the slot's name, which is the whole server's."""
        script = (SHIPPED / "publication.sql").read_text()
        script = script.replace("slot('document_links'", f"slot('{self.name}'")
        for statement in filter(None, script.split(";\n")):  # together: one transaction
            await self._execute(statement)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drop the slot, which would keep WAL for ever."""
        await until(self._is_free)
        await self._execute(f"SELECT pg_drop_replication_slot('{self.name}')")

    @asynccontextmanager
    async def relayed(self, connect: Connect, topic: str, **changes: str) -> AsyncIterator[None]:
        """Let a connector relay to the topic for as long as the context lasts."""
        await connect.start(self.name, {**self._config(topic), **changes})
        try:
            yield
        finally:
            await connect.remove(self.name)

    def _config(self, topic: str) -> dict[str, str]:
        config: dict[str, str] = json.loads((SHIPPED / "connector.json").read_text())["config"]
        url = urlsplit(self.dsn)
        here = {
            "topic.prefix": self.name,
            "slot.name": self.name,
            "database.hostname": url.hostname or "",
            "database.port": str(url.port),
            "database.user": url.username or "",
            "database.password": url.password or "none",
            "database.dbname": url.path.removeprefix("/"),
            "transforms.event.route.topic.replacement": topic,
            "topic.creation.default.replication.factor": "1",
        }
        return {**config, **here}

    async def _is_free(self) -> bool:
        connection = await asyncpg.connect(self.dsn)
        try:
            return bool(await connection.fetchval(SLOT_IS_FREE, self.name))
        finally:
            await connection.close()

    async def _execute(self, script: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(script)
        finally:
            await connection.close()
