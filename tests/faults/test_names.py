"""Postgres by a name that has several addresses, and that moves, in a hosts file of the program's own."""

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx

from deploy.local.process import Process, free_port
from tests.support.faults.tcp import FaultyProxy
from tests.support.service.api import new_key, seed
from tests.support.waiting import last, until

ONE, OTHER = "127.0.0.2", "127.0.0.3"
NAME = "links.test"
WITH_HOSTS = 'mount --bind "$HOSTS" /etc/hosts; exec "$@"'
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", WITH_HOSTS, "sh")
RECOVERY_S = 10
QUIET_S = 2.1  # longer than a connection is trusted without a check


async def test_a_name_is_tried_at_each_address_and_looked_up_anew(
    database: str, tmp_path: Path
) -> None:
    """One address of two never answers: calls are right. The name moves: within 10 s they are again."""
    key = await new_key(database)
    connection = await asyncpg.connect(database)
    await seed(connection, 1, 5)
    await connection.close()
    parts = urlsplit(database)
    hosts, shared, port = tmp_path / "hosts", free_port(), free_port()
    hosts.write_text(f"{ONE} {NAME}\n{OTHER} {NAME}\n")
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(
                FaultyProxy(parts.hostname or "", parts.port or 5432, shared, own_host=host)
            )
            for host in (ONE, OTHER)
        ]
        proxies[0].silence()
        url = parts._replace(netloc=f"{parts.username}@{NAME}:{shared}").geturl()
        settings = {"DATABASE_URL": url, "LINKS_PORT": str(port), "LINKS_DRAIN_SECONDS": "0"}
        command = [*IN_A_NAMESPACE, sys.executable, "-m", "service", "serve"]
        service = Process(
            "service", command, tmp_path / "log", env={**settings, "HOSTS": str(hosts)}
        )
        service.start()
        stack.push_async_callback(asyncio.to_thread, service.end)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"X-API-KEY": key})
        )
        await until(lambda: linked(client, "ship_1"))
        proxies[0].silence(silent=False)
        proxies[1].silence()
        proxies[1].forget()
        await last(QUIET_S)
        hosts.write_text(f"{ONE} {NAME}\n")
        began = time.monotonic()
        await until(lambda: linked(client, "ship_2"), RECOVERY_S)
        await until(lambda: linked(client, "ship_3"), RECOVERY_S - (time.monotonic() - began))


async def linked(client: httpx.AsyncClient, resource: str) -> bool:
    """Whether a link can be made now."""
    try:
        answer = await client.post("/v1/documents/doc_1/links", json={"resource_id": resource})
    except httpx.TransportError:
        return False
    return answer.is_success
