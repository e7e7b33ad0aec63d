"""Callers that send too much, too slowly, or nothing that makes sense, at a service that runs."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from deploy.local import programs
from deploy.local.postgres import Postgres
from tests.api import new_key
from tests.parts import TEMPLATE, execute
from tests.waiting import until

TIMEOUT_S = 1.0  # what the service is told; it is given ten times as long on a machine that is busy
PATIENCE_S = 10 * TIMEOUT_S
SEED = """
INSERT INTO documents (workspace_id, id) SELECT id, 'doc_1' FROM workspaces
"""
HEAD = b"GET /healthz HTTP/1.1\r\nHost: test\r\n"
POST = b"POST /v1/documents HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def shared_database(postgres: Postgres) -> Iterator[str]:
    """Yield the database that these tests share: nobody writes to it."""
    name = f"test_{uuid4().hex}"
    dsn = postgres.dsn(name)
    asyncio.run(execute(postgres.dsn(), f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    yield dsn
    asyncio.run(execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="module")
def key(shared_database: str) -> str:
    """Return a key of a workspace with one document."""
    key = asyncio.run(new_key(shared_database))
    asyncio.run(execute(shared_database, SEED))
    return key


@pytest.fixture(scope="module")
def service(
    shared_database: str, key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[programs.Program]:
    """Yield a service that is impatient, and logs every request."""
    settings = {
        "LINKS_REQUEST_TIMEOUT": str(TIMEOUT_S),
        "LINKS_IDLE_TIMEOUT": "1",
        "LINKS_LOG_LEVEL": "debug",
    }
    logs = tmp_path_factory.mktemp("service")
    with programs.service(shared_database, logs, **settings) as service:
        yield service
    log = service.log.read_text()
    assert key not in log
    assert "Traceback" not in log


class Connection:
    """A caller without manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send, if anybody listens."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    async def rest(self) -> bytes:
        """Return what comes until the service closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@pytest.fixture
async def caller(service: programs.Program) -> AsyncIterator[Connection]:
    """Yield a connection to the service."""
    connection = await connect(service)
    yield connection
    connection.writer.close()


async def connect(service: programs.Program) -> Connection:
    """Open a connection to the service."""
    host, _, port = service.url.removeprefix("http://").partition(":")
    return Connection(*await asyncio.open_connection(host, int(port)))


def problem(response: bytes) -> dict[str, object]:
    """Return the problem that a raw response holds, its status and headers checked."""
    head, _, body = response.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    told: dict[str, object] = json.loads(body)
    assert lines[0].startswith(f"http/1.1 {told['status']} ")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"] == str(told["request_id"]).lower()
    return told


async def is_alive(service: programs.Program, key: str) -> None:
    """See that others are served meanwhile."""
    async with httpx.AsyncClient(base_url=service.url, headers={"X-API-KEY": key}) as client:
        assert (await client.get("/v1/documents/doc_1", timeout=PATIENCE_S)).status_code == 200


async def test_who_sends_nothing_is_closed(caller: Connection) -> None:
    """A connection without a request ends without a word."""
    assert await caller.rest() == b""


async def test_blank_lines_are_nothing(caller: Connection) -> None:
    """Line ends before a request do not keep a connection open."""
    for _ in range(3):
        await caller.send(b"\r\n")
    assert await caller.rest() == b""


@pytest.mark.parametrize("pieces", [[HEAD], [b"G"], [b"GET / HT", b"TP/1.1\r\n", b"A: b\r\n"]])
async def test_half_a_head_is_cut_off(caller: Connection, pieces: list[bytes]) -> None:
    """A head that does not end is answered 408, however it trickles in."""
    for piece in pieces:
        await caller.send(piece)
    assert problem(await caller.rest())["code"] == "request_timeout"


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 100\r\n\r\n",
        b"Content-Length: 100\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
async def test_body_that_never_ends_is_cut_off(
    caller: Connection, service: programs.Program, key: str, body: bytes
) -> None:
    """A body that stops coming is answered 408, and may be tried again."""
    await caller.send(POST + b"X-API-KEY: " + key.encode() + b"\r\n" + body)
    await is_alive(service, key)
    answer = await caller.rest()
    assert problem(answer)["code"] == "request_timeout"
    assert b"retry-after: 1\r\n" in answer.lower()


@pytest.mark.parametrize(("given", "told"), [(b"mine", "mine"), (b"not mine", "req_")])
async def test_a_slow_body_is_answered_as_the_call_it_is(
    caller: Connection, key: str, given: bytes, told: str
) -> None:
    """408 has the caller's own request id if it is a valid one, and its key's quota."""
    head = POST + b"X-API-KEY: " + key.encode() + b"\r\nX-Request-ID: " + given
    await caller.send(head + b"\r\nContent-Length: 9\r\n\r\n")
    answer = await caller.rest()
    assert str(problem(answer)["request_id"]).startswith(told)
    for header in (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset",
                   b"ratelimit-policy", b"ratelimit", b"retry-after", b"x-request-id"):  # fmt: skip
        assert answer.lower().count(b"\r\n" + header + b": ") == 1


async def test_a_refused_head_is_told_its_own_id(caller: Connection) -> None:
    """431 has the request id of the request that is refused, though nobody has read the rest."""
    await caller.send(HEAD + b"X-Request-ID: mine\r\nX: " + b"x" * (64 << 10))
    assert problem(await caller.rest())["request_id"] == "mine"


async def test_what_is_no_request_is_not_told_anothers_id(caller: Connection) -> None:
    """What comes after an answered request, and cannot be read, has an id of its own."""
    await caller.send(HEAD + b"X-Request-ID: mine\r\n\r\n")
    await caller.reader.readuntil(b'"ok"}')
    await caller.send(b"\x00garbage\r\n\r\n")
    assert str(problem(await caller.rest())["request_id"]).startswith("req_")


async def test_body_that_trickles_is_cut_off(caller: Connection, key: str) -> None:
    """A byte now and then does not buy time."""
    await caller.send(POST + b"X-API-KEY: " + key.encode() + b"\r\nContent-Length: 9999\r\n\r\n")

    async def trickle() -> None:
        while True:
            await caller.send(b" ")
            await asyncio.sleep(TIMEOUT_S / 10)  # what a slow caller does

    task = asyncio.create_task(trickle())
    answer = await caller.rest()
    task.cancel()
    assert problem(answer)["code"] == "request_timeout"


async def test_connection_is_closed_between_requests(caller: Connection) -> None:
    """One that had its answer and asks for nothing more ends after the idle time."""
    await caller.send(HEAD + b"\r\n")
    answer = await caller.rest()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X: " + b"x" * (64 << 10) + b"\r\n\r\n",
        HEAD + b"X: y\r\n" * (11 << 10) + b"\r\n",
        b"GET /" + b"x" * (64 << 10) + b" HTTP/1.1\r\nHost: test\r\n\r\n",
        HEAD + b"X: " + b"x" * (2 << 20),
    ],
    ids=["one header", "many headers", "path", "without an end"],
)
async def test_long_head_is_refused(
    caller: Connection, service: programs.Program, key: str, head: bytes
) -> None:
    """More than 64 KiB of request line and headers is 431."""
    await caller.send(head)
    assert problem(await caller.rest())["code"] == "headers_too_large"
    await is_alive(service, key)


async def test_head_of_almost_64_kib_is_served(caller: Connection) -> None:
    """The limit is where it is said to be."""
    await caller.send(HEAD + b"Connection: close\r\nX: " + b"x" * 65_000 + b"\r\n\r\n")
    assert (await caller.rest()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: test\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"A: b\x00c\r\n\r\n",
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: test\r\n\r\n",
    ],
)
async def test_garbage_is_a_problem(
    caller: Connection, service: programs.Program, key: str, garbage: bytes
) -> None:
    """What is no HTTP is answered 400 as a problem, and closed."""
    await caller.send(garbage)
    told = problem(await caller.rest())
    assert told["status"] == 400
    assert told["errors"] == [{"field": "request", "message": "is not HTTP/1.1"}]
    await is_alive(service, key)


async def test_garbage_after_a_request(caller: Connection) -> None:
    """A request that was read is answered; what comes after it ends the connection."""
    await caller.send(HEAD + b"\r\n" + b"\x00garbage\r\n\r\n")
    assert (await caller.rest()).startswith(b"HTTP/1.1 200 ")


async def test_upgrade_is_ignored(caller: Connection, key: str) -> None:
    """A client that offers HTTP/2 gets its answer in HTTP/1.1, with its body read."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    length = b"Content-Length: 2\r\n\r\n{}"
    await caller.send(POST + upgrade + b"X-API-KEY: " + key.encode() + b"\r\n" + length)
    assert (await caller.rest()).startswith(b"HTTP/1.1 201 ")


async def test_large_body_is_answered_before_its_end(caller: Connection, key: str) -> None:
    """413 reaches a caller who is still sending, and who is not read for ever."""
    length = b"Content-Length: %d\r\n\r\n" % (1 << 30)
    await caller.send(POST + b"X-API-KEY: " + key.encode() + b"\r\n" + length)

    async def flood() -> None:
        while not caller.writer.is_closing():
            await caller.send(b" " * 65_536)

    task = asyncio.create_task(flood())
    answer = await caller.reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    await caller.rest()
    task.cancel()


async def test_a_thousand_silent_connections(service: programs.Program, key: str) -> None:
    """They cost others nothing, and are closed."""
    silent = await asyncio.gather(*(connect(service) for _ in range(1000)))
    await is_alive(service, key)
    assert await asyncio.gather(*(each.rest() for each in silent)) == [b""] * 1000
    for each in silent:
        each.writer.close()
    await is_alive(service, key)


async def test_too_many_connections_are_refused(
    shared_database: str, key: str, tmp_path: Path
) -> None:
    """One more than a process may have is told so, and to try again; with room there, it is served."""
    with programs.service(shared_database, tmp_path, LINKS_MAX_CONNECTIONS="3") as service:
        some = [await connect(service) for _ in range(3)]
        some.append(await connect(service))
        refused = await some[3].rest()
        assert problem(refused)["code"] == "unavailable"
        assert b"retry-after: 1\r\n" in refused.lower()
        for each in some:
            each.writer.close()

        async def served() -> bool:
            connection = await connect(service)
            await connection.send(HEAD + b"Connection: close\r\n\r\n")
            answer = await connection.rest()
            connection.writer.close()
            return answer.startswith(b"HTTP/1.1 200 ")

        await until(served)
        await is_alive(service, key)
