"""`service serve` as a process: how it stops, its metrics and its logs."""

import asyncio
import json
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import httpx
import pytest

from deploy.local import programs
from deploy.local.process import Process, free_port
from tests.support.parts.shared import execute
from tests.support.service.api import GENEROUS, new_key, seed
from tests.support.streams import close
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import eventually, until

LINKS = "/v1/documents/doc_1/links"
SECRET = "s3cret-password"
HEAD = (
    "POST {path} HTTP/1.1\r\nHost: test\r\nX-API-KEY: {key}\r\nContent-Type: application/json\r\n"
    "Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
)
BODY = b'{"resource_id": "ship_1"}'


@pytest.fixture
async def key(database: str, connection: asyncpg.Connection) -> str:
    """Return a key of a workspace with documents and entities."""
    key = await new_key(database)
    await seed(connection, 20, 20)
    return key


def client_of(service: programs.Program, key: str) -> httpx.AsyncClient:
    """Return a client of the process."""
    return httpx.AsyncClient(base_url=service.url, headers={"X-API-KEY": key}, timeout=30)


async def test_pipelined_answers_come_in_order(database: str, key: str, tmp_path: Path) -> None:
    """Answers with and without a body are complete, in the order of the requests."""
    calls = [("HEAD", 200), ("GET", 200), ("HEAD", 200), ("TRACE", 405), ("HEAD", 200)]
    fields = f"Host: test\r\nX-API-KEY: {key}\r\n"
    requests = [f"{method} /v1/documents/doc_1 HTTP/1.1\r\n{fields}" for method, _ in calls]
    with programs.service(database, tmp_path) as service:
        host, port = service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write("".join(f"{request}\r\n" for request in requests).encode())
        for method, status in calls:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if method != "HEAD":
                assert json.loads(await reader.readexactly(length))
        await close(writer)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_lets_requests_in_flight_finish(
    database: str, key: str, connection: asyncpg.Connection, tmp_path: Path, workers: str
) -> None:
    """After SIGTERM the service answers the requests in flight and exits with 0."""
    with programs.service(database, tmp_path, LINKS_WORKERS=workers) as service:
        host, port = service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(HEAD.format(path=LINKS, key=key, length=len(BODY)).encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")  # it has begun
        ended = asyncio.create_task(asyncio.to_thread(service.end, signal.SIGTERM))

        async def stopping() -> bool:
            return "Shutting down" in service.log.read_text()

        await until(stopping)
        writer.write(BODY)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 201 ")
        assert await ended == 0
        await close(writer)
    assert len(await read_outbox(connection)) == 1
    await check_outbox(connection)


async def test_metrics_are_of_all_processes(database: str, key: str, tmp_path: Path) -> None:
    """Each worker's /metrics has the requests of both workers, by route and not by path."""
    with programs.service(
        database, tmp_path, LINKS_WORKERS="2", LINKS_RATE_LIMIT=GENEROUS
    ) as service:
        async with client_of(service, key) as client:
            urls = [f"/v1/documents/doc_{n % 20 + 1}/links" for n in range(60)]
            await asyncio.gather(*(client.get(url) for url in urls))
            pages = await asyncio.gather(*(client.get("/metrics") for _ in range(8)))
    series = 'links_http_requests_total{method="GET",route="/v1/documents/{id}/links",status="200"}'
    for page in pages:
        assert f"{series} 60.0" in page.text.splitlines()
        assert "doc_1" not in page.text


async def test_logs_are_json_without_secrets(
    database: str, key: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """No line has a key, a body or a password, and each line of a request has its id."""
    await connection.execute("ALTER TABLE document_links ADD CHECK (role <> 'private-role')")
    with_password = database.replace("//postgres@", f"//postgres:{SECRET}@")
    assert SECRET in with_password
    with programs.service(with_password, tmp_path, LINKS_LOG_LEVEL="debug") as service:
        async with client_of(service, key) as client:
            statuses = await failures(client)
            await execute(database, "ALTER TABLE outbox RENAME TO gone")
            away = await client.post(LINKS, json={"resource_id": "ship_2"})
    text = service.log.read_text()
    assert (statuses, away.status_code) == ([201, 500, 400, 401], 503)
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"time", "level", "event"} <= set.intersection(*(set(line) for line in lines))
    events = {"http.served", "http.failed", "http.unavailable"}
    requests = [line for line in lines if line["event"] in events]
    assert {line["event"] for line in requests} == events
    assert all(line["request_id"] for line in requests)
    assert [line["event"] for line in requests if line["request_id"] == "request-of-mine"] == [
        "http.served", "http.failed", *["http.served"] * 3
    ]  # fmt: skip
    for secret in (key, key.removeprefix("wbk_"), "x" * 52, SECRET, "private"):
        assert secret not in text


async def failures(client: httpx.AsyncClient) -> list[int]:
    """Make calls that succeed, fail inside, are malformed, and have a wrong key."""
    named = {"X-Request-ID": "request-of-mine"}
    body = {"entity_type": "deal", "entity_id": "deal_1"}
    url = "/v1/documents/doc_1/link"
    wrong = {"X-API-KEY": "wbk_" + "x" * 52}
    answers = [
        await client.post(LINKS, json={"resource_id": "ship_1"}, headers=named),
        await client.post(url, json=body | {"role": "private-role"}, headers=named),
        await client.post(url, json=body | {"private": 1}, headers=named),
        await client.post(LINKS, json=body, headers=named | wrong),
    ]
    return [answer.status_code for answer in answers]


def is_alive(port: int) -> bool:
    """Whether the service answers a new caller."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
    except httpx.TransportError:
        return False


def test_callers_wait_while_no_file_can_be_opened(database: str, tmp_path: Path) -> None:
    """At the limit of open files the service logs one line, and accepts callers once others have left."""
    port = free_port()
    env = {"DATABASE_URL": database, "LINKS_PORT": str(port), "LINKS_POOL_SIZE": "2"}
    command = ["prlimit", "--nofile=60:60", sys.executable, "-m", "service", "serve"]
    service = Process("service", command, tmp_path / "service.log", env=env)
    service.start()
    try:
        eventually(lambda: is_alive(port))
        with ExitStack() as callers:
            for _ in range(150):
                callers.enter_context(socket.create_connection(("127.0.0.1", port)))
            eventually(lambda: "http.accept_failed" in service.log.read_text())
        eventually(lambda: is_alive(port))
    finally:
        service.end(signal.SIGKILL)
    assert service.log.read_text().count("http.accept_failed") == 1
