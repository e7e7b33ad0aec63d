"""A host name of Postgres with several addresses, which change. The program has its own hosts file."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx

from deploy.local.process import Process, free_port
from tests.support.faults.postgres import PostgresProxy
from tests.support.service.api import new_key, seed
from tests.support.waiting import BUSY_S, last, until

ONE, OTHER = "127.0.0.2", "127.0.0.3"
NAME = "links.test"
WITH_HOSTS = 'mount --bind "$HOSTS" /etc/hosts; exec "$@"'
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", WITH_HOSTS, "sh")
RECOVERY_S = 10 + BUSY_S
QUIET_S = 2.1  # longer than TRUSTED_S, after which a connection is checked


async def test_each_address_is_tried_and_the_name_is_resolved_again(
    database: str, tmp_path: Path
) -> None:
    """Calls succeed if one of two addresses is silent, and within 10 s after the addresses change."""
    key = await new_key(database)
    connection = await asyncpg.connect(database)
    await seed(connection, 1, 5)
    await connection.close()
    parts = urlsplit(database)
    hosts, shared, port = tmp_path / "hosts", free_port(), free_port()
    hosts.write_text(f"{ONE} {NAME}\n{OTHER} {NAME}\n")
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(PostgresProxy(database, shared, own_host=host))
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
        async with asyncio.timeout(RECOVERY_S):
            await until(lambda: linked(client, "ship_2"))
            await until(lambda: linked(client, "ship_3"))


async def linked(client: httpx.AsyncClient, resource: str) -> bool:
    """Whether a link can be made now."""
    try:
        answer = await client.post("/v1/documents/doc_1/links", json={"resource_id": resource})
    except httpx.TransportError:
        return False
    return answer.is_success
