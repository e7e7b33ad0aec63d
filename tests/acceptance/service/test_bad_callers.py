"""Callers that send too much, too slowly, or no valid HTTP, to a running service."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest

from deploy.local import programs
from deploy.local.postgres import Postgres
from tests.support.parts.shared import TEMPLATE, execute
from tests.support.service.api import new_key
from tests.support.streams import abort
from tests.support.waiting import until

TIMEOUT_S = 1.0
"""The time-outs of the hasty service. On a busy machine a correct caller may need almost as long."""
PATIENCE_S = 30.0
SEED = """
INSERT INTO documents (workspace_id, id) SELECT id, 'doc_1' FROM workspaces
"""
pytestmark = pytest.mark.xdist_group("bad callers")  # they share two services
HEAD = b"GET /healthz HTTP/1.1\r\nHost: test\r\n"
POST = b"POST /v1/documents HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def shared_database(postgres: Postgres) -> Iterator[str]:
    """Yield the database of all these tests, which nobody writes to."""
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


@contextmanager
def serving(database: str, key: str, logs: Path, **settings: str) -> Iterator[programs.Program]:
    """Run a service that logs each request; at the end, see that its log has no secret."""
    with programs.service(database, logs, LINKS_LOG_LEVEL="debug", **settings) as service:
        yield service
    log = service.log.read_text()
    assert key not in log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def service(
    shared_database: str, key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[programs.Program]:
    """Yield a service with the default time-outs."""
    with serving(shared_database, key, tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def hasty_service(
    shared_database: str, key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[programs.Program]:
    """Yield a service with time-outs of one second."""
    settings = {"LINKS_REQUEST_TIMEOUT": str(TIMEOUT_S), "LINKS_IDLE_TIMEOUT": "1"}
    logs = tmp_path_factory.mktemp("hasty")
    with serving(shared_database, key, logs, **settings) as service:
        yield service


class Connection:
    """A caller's raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send data, if the service still reads."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    async def rest(self) -> bytes:
        """Return all data until the service closes the connection."""
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
    await abort(connection.writer)


@pytest.fixture
async def slow_caller(hasty_service: programs.Program) -> AsyncIterator[Connection]:
    """Yield a connection to the hasty service."""
    connection = await connect(hasty_service)
    yield connection
    await abort(connection.writer)


async def connect(service: programs.Program) -> Connection:
    """Open a connection to the service."""
    host, _, port = service.url.removeprefix("http://").partition(":")
    return Connection(*await asyncio.open_connection(host, int(port)))


def problem(response: bytes) -> dict[str, object]:
    """Check the status and headers of a raw response; return its problem."""
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
    """See that the service answers another caller."""
    async with httpx.AsyncClient(base_url=service.url, headers={"X-API-KEY": key}) as client:
        assert (await client.get("/v1/documents/doc_1", timeout=PATIENCE_S)).status_code == 200


async def test_silent_connection_is_closed(slow_caller: Connection) -> None:
    """A connection without a request is closed without an answer."""
    assert await slow_caller.rest() == b""


async def test_blank_lines_do_not_keep_a_connection(slow_caller: Connection) -> None:
    """A connection on which only line ends are sent is closed."""
    for _ in range(3):
        await slow_caller.send(b"\r\n")
    assert await slow_caller.rest() == b""


@pytest.mark.parametrize("pieces", [[HEAD], [b"G"], [b"GET / HT", b"TP/1.1\r\n", b"A: b\r\n"]])
async def test_incomplete_head_is_408(slow_caller: Connection, pieces: list[bytes]) -> None:
    """A head that does not end is answered 408, even if its bytes arrive one by one."""
    for piece in pieces:
        await slow_caller.send(piece)
    assert problem(await slow_caller.rest())["code"] == "request_timeout"


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 100\r\n\r\n",
        b"Content-Length: 100\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
async def test_incomplete_body_is_408(
    slow_caller: Connection, hasty_service: programs.Program, key: str, body: bytes
) -> None:
    """A body that does not end is answered 408, and the caller may retry."""
    await slow_caller.send(POST + b"X-API-KEY: " + key.encode() + b"\r\n" + body)
    await is_alive(hasty_service, key)
    answer = await slow_caller.rest()
    assert problem(answer)["code"] == "request_timeout"
    assert b"retry-after: 1\r\n" in answer.lower()


async def test_second_incomplete_body_is_408(
    caller: Connection, service: programs.Program, key: str
) -> None:
    """The next body on the same connection has a time-out of its own, after a body in two pieces."""
    head = POST.replace(b"/v1/documents", b"/v1/documents/doc_1") + b"X-API-KEY: " + key.encode()
    head += b"\r\nContent-Length: 2\r\n\r\n"
    await caller.send(head)
    await is_alive(service, key)  # the head has been read meanwhile
    await caller.send(b"{}")
    assert (await caller.reader.readuntil(b'"Document updated"}')).startswith(b"HTTP/1.1 200 ")
    await caller.send(head + b"{")
    assert problem(await caller.rest())["code"] == "request_timeout"


@pytest.mark.parametrize(("given", "told"), [(b"mine", "mine"), (b"not mine", "req_")])
async def test_408_has_the_headers_of_its_call(
    slow_caller: Connection, key: str, given: bytes, told: str
) -> None:
    """A 408 has the request's id, if it is valid, and the rate-limit headers of its key."""
    head = POST + b"X-API-KEY: " + key.encode() + b"\r\nX-Request-ID: " + given
    await slow_caller.send(head + b"\r\nContent-Length: 9\r\n\r\n")
    answer = await slow_caller.rest()
    assert str(problem(answer)["request_id"]).startswith(told)
    for header in (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset",
                   b"ratelimit-policy", b"ratelimit", b"retry-after", b"x-request-id"):  # fmt: skip
        assert answer.lower().count(b"\r\n" + header + b": ") == 1


async def test_431_has_the_request_id_of_its_head(caller: Connection) -> None:
    """A 431 has the id of the refused request, although its head was not read to the end."""
    await caller.send(HEAD + b"X-Request-ID: mine\r\nX: " + b"x" * (64 << 10))
    assert problem(await caller.rest())["request_id"] == "mine"


async def test_garbage_gets_another_request_id(caller: Connection) -> None:
    """Garbage after an answered request is answered with a new request id."""
    await caller.send(HEAD + b"X-Request-ID: mine\r\n\r\n")
    await caller.reader.readuntil(b'"}')
    await caller.send(b"\x00garbage\r\n\r\n")
    assert str(problem(await caller.rest())["request_id"]).startswith("req_")


async def test_body_in_single_bytes_is_408(slow_caller: Connection, key: str) -> None:
    """A body whose bytes arrive one by one is answered 408."""
    await slow_caller.send(
        POST + b"X-API-KEY: " + key.encode() + b"\r\nContent-Length: 9999\r\n\r\n"
    )

    async def trickle() -> None:
        while True:
            await slow_caller.send(b" ")
            await asyncio.sleep(TIMEOUT_S / 10)  # what a slow caller does

    task = asyncio.create_task(trickle())
    answer = await slow_caller.rest()
    task.cancel()
    assert problem(answer)["code"] == "request_timeout"


async def test_idle_connection_is_closed(slow_caller: Connection) -> None:
    """A connection without another request is closed after the idle time."""
    await slow_caller.send(HEAD + b"\r\n")
    answer = await slow_caller.rest()
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
    """A request line and headers of more than 64 KiB are answered 431."""
    await caller.send(head)
    assert problem(await caller.rest())["code"] == "headers_too_large"
    await is_alive(service, key)


async def test_head_of_almost_64_kib_is_served(caller: Connection) -> None:
    """A head of just under 64 KiB is served."""
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
    """Bytes that are no HTTP are answered with a problem of status 400, and the connection is closed."""
    await caller.send(garbage)
    told = problem(await caller.rest())
    assert told["status"] == 400
    assert told["errors"] == [{"field": "request", "message": "is not HTTP/1.1"}]
    await is_alive(service, key)


async def test_garbage_after_a_request(caller: Connection) -> None:
    """A valid request is answered; the garbage after it ends the connection."""
    await caller.send(HEAD + b"\r\n" + b"\x00garbage\r\n\r\n")
    assert (await caller.rest()).startswith(b"HTTP/1.1 200 ")


async def test_upgrade_is_ignored(caller: Connection, key: str) -> None:
    """A request with an Upgrade to HTTP/2 is answered in HTTP/1.1, and its body is read."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    length = b"Content-Length: 2\r\n\r\n{}"
    await caller.send(POST + upgrade + b"X-API-KEY: " + key.encode() + b"\r\n" + length)
    async with asyncio.timeout(PATIENCE_S):
        assert (await caller.reader.readline()).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("name", [b"Upgrade", b"UPGRADE"])
async def test_upgrade_in_two_segments_is_ignored(
    service: programs.Program, key: str, name: bytes
) -> None:
    """The same, if the request arrives in two TCP segments."""
    head = POST + b"Connection: Upgrade\r\n" + name + b": h2c\r\nX-API-KEY: " + key.encode()
    body = b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    begin = head.index(name)
    for cut in range(begin, begin + 9):
        caller = await connect(service)
        await caller.send(head[:cut])
        await is_alive(service, key)  # the first segment has been read meanwhile
        await caller.send(head[cut:] + body)
        assert (await caller.rest()).startswith(b"HTTP/1.1 201 "), cut
        await abort(caller.writer)


@pytest.mark.parametrize(
    "hosts", [[], [b"a", b"b"], [b"a", b"a"], [b"a b"], [b"http://a"], [b"a/b"], [b"[::1"]]
)
async def test_a_host_is_required(caller: Connection, hosts: list[bytes]) -> None:
    """HTTP/1.1 without one valid Host is 400 (RFC 9112, section 3.2)."""
    lines = b"".join(b"Host: " + host + b"\r\n" for host in hosts)
    await caller.send(b"GET /healthz HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
    answer = problem(await caller.rest())
    assert (answer["status"], answer["code"]) == (400, "validation_error")
    assert "Host" in str(answer["errors"])


async def test_a_target_that_uvicorn_cannot_read_is_refused(caller: Connection) -> None:
    """A target of 64 KiB, which only HTTP/1.0 without Host has within the bound of a head, is 400."""
    await caller.send(b"GET /" + b"a" * 0xFFFF + b" HTTP/1.0\r\n\r\n")
    answer = problem(await caller.rest())
    assert (answer["status"], answer["code"]) == (400, "validation_error")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /healthz HTTP/1.0\r\n", b"200"),
        (b"GET /healthz HTTP/1.0\r\nExpect: 100-continue\r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\nHost: [::1]:80\r\n", b"200"),
        (b"GET http://other.example/healthz HTTP/1.1\r\nHost: test\r\n", b"200"),
        (b"GET http://other.example HTTP/1.1\r\nHost: test\r\n", b"404"),
        (b"GET http://other.example?a=b HTTP/1.1\r\nHost: test\r\n", b"404"),
        (b"OPTIONS * HTTP/1.1\r\nHost: test\r\n", b"204"),
        (b"HEAD /healthz HTTP/1.1\r\nHost: test\r\n", b"200"),
    ],
)
async def test_forms_of_a_request(caller: Connection, request_line: bytes, status: bytes) -> None:
    """HTTP/1.0 needs no Host; a target may be an absolute URL, or `*` for OPTIONS."""
    await caller.send(request_line + b"Connection: close\r\n\r\n")
    assert (await caller.rest()).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "framing",
    [
        b"X: a\r\n folded\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length : 2\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: 2, 2\r\n\r\n{}",
        b"Content-Length: +2\r\n\r\n{}",
        b"Content-Length: 0x2\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity\r\n\r\n{}",
        b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        b"Transfer-Encoding: chunked\r\n\r\n2 x\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_no_request_is_smuggled(
    hasty_service: programs.Program, slow_caller: Connection, key: str, framing: bytes
) -> None:
    """A request with ambiguous framing is refused, and the bytes after it are not executed."""
    made = f"smuggled-{uuid4().hex}"
    known = b"X-API-KEY: " + key.encode() + b"\r\n"
    path = f"/v1/documents/{made}".encode()
    await slow_caller.send(POST + known + framing)
    await slow_caller.send(b"PUT " + path + b" HTTP/1.1\r\nHost: test\r\n" + known + b"\r\n")
    assert (await slow_caller.rest()).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 415 "))
    async with httpx.AsyncClient(base_url=hasty_service.url, headers={"X-API-KEY": key}) as client:
        assert (await client.get(path.decode())).status_code == 404


async def test_trailers_are_no_headers(caller: Connection, key: str) -> None:
    """A key in a trailer does not authenticate the request (RFC 9110, section 6.5.1)."""
    chunks = b"2\r\n{}\r\n0\r\nX-API-KEY: " + key.encode() + b"\r\n\r\n"
    await caller.send(POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert problem(await caller.rest())["status"] == 401


NEXT = b"POST /v1/documents HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


FOLLOWING = {
    "G": (b"G", [b"503"]),
    "half": (HEAD + b"X: half", [b"503"]),
    "garbage": (b"\x00garbage\r\n\r\n", [b"503"]),
    "large": (HEAD + b"X: " + b"x" * (64 << 10) + b"\r\n\r\n", [b"503"]),
    "half of a third": (HEAD + b"\r\n" + b"G", [b"503", b"200"]),
    "chunk": (NEXT + b"{key}Transfer-Encoding: chunked\r\n\r\nzz\r\n", [b"503"]),
    "body": (NEXT + b"{key}Content-Length: 9\r\n\r\n{", [b"503", b"408"]),
    "whole": (HEAD + b"Connection: close\r\n\r\n", [b"503", b"200"]),
}
"""Bytes that are sent while a call is being answered, and the statuses of all answers."""


async def test_answers_stay_in_the_order_of_requests(
    hasty_service: programs.Program, shared_database: str, key: str
) -> None:
    """While a call waits for a lock, invalid bytes after it are not answered before it."""
    known = b"X-API-KEY: " + key.encode() + b"\r\n"
    first = POST.replace(b"POST /v1/documents ", b"PUT /v1/documents/doc_1 ") + known

    async def statuses(following: bytes) -> list[bytes]:
        caller = await connect(hasty_service)
        await caller.send(first + b"Content-Length: 2\r\n\r\n{}")
        await caller.send(following.replace(b"{key}", known))
        async with asyncio.timeout(3 * PATIENCE_S):
            answers = await caller.reader.read()
        await abort(caller.writer)
        return re.findall(rb"HTTP/1\.1 (\d+) ", answers)

    connection = await asyncpg.connect(shared_database)
    async with connection.transaction():
        await connection.execute("SELECT FROM documents WHERE id = 'doc_1' FOR UPDATE")
        found = await asyncio.gather(*(statuses(each) for each, _ in FOLLOWING.values()))
    await connection.close()
    expected = {name: each for name, (_, each) in FOLLOWING.items()}
    assert dict(zip(FOLLOWING, found, strict=True)) == expected


async def test_browsers_may_read_refusals_of_the_protocol(
    shared_database: str, tmp_path: Path
) -> None:
    """Refusals by the HTTP layer have CORS headers for the allowed origins."""
    origin = b"https://app.example.com"
    settings = {"LINKS_CORS_ORIGINS": origin.decode(), "LINKS_REQUEST_TIMEOUT": "1"}
    head = HEAD + b"Origin: " + origin + b"\r\n"
    with programs.service(shared_database, tmp_path, **settings) as service:
        for rest, code in (
            (b"X: half", "request_timeout"),
            (b"X: " + b"x" * (64 << 10) + b"\r\n\r\n", "headers_too_large"),
            (b"X: y\r\nno colon\r\n\r\n", "validation_error"),
        ):
            caller = await connect(service)
            await caller.send(head)
            await caller.send(rest)
            answer = await caller.rest()
            assert problem(answer)["code"] == code
            assert b"access-control-allow-origin: " + origin + b"\r\n" in answer
            assert b"vary: Origin\r\n" in answer
            await abort(caller.writer)


async def test_large_body_is_answered_before_its_end(slow_caller: Connection, key: str) -> None:
    """A caller gets 413 while it still sends, and the service stops reading."""
    length = b"Content-Length: %d\r\n\r\n" % (1 << 30)
    await slow_caller.send(POST + b"X-API-KEY: " + key.encode() + b"\r\n" + length)

    async def flood() -> None:
        while not slow_caller.writer.is_closing():
            await slow_caller.send(b" " * 65_536)

    task = asyncio.create_task(flood())
    answer = await slow_caller.reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    await slow_caller.rest()
    task.cancel()


async def test_a_thousand_silent_connections(hasty_service: programs.Program, key: str) -> None:
    """A thousand idle connections do not affect other callers, and are closed."""
    silent = await asyncio.gather(*(connect(hasty_service) for _ in range(1000)))
    await is_alive(hasty_service, key)
    assert await asyncio.gather(*(each.rest() for each in silent)) == [b""] * 1000
    await asyncio.gather(*(abort(each.writer) for each in silent))
    await is_alive(hasty_service, key)


async def test_too_many_connections_are_refused(
    shared_database: str, key: str, tmp_path: Path
) -> None:
    """A connection beyond the limit is refused with Retry-After; once there is room, it is served."""
    with programs.service(shared_database, tmp_path, LINKS_MAX_CONNECTIONS="3") as service:
        some = [await connect(service) for _ in range(3)]
        some.append(await connect(service))
        refused = await some[3].rest()
        assert problem(refused)["code"] == "unavailable"
        assert b"retry-after: 1\r\n" in refused.lower()
        for each in some:
            await abort(each.writer)

        async def served() -> bool:
            connection = await connect(service)
            await connection.send(HEAD + b"Connection: close\r\n\r\n")
            answer = await connection.rest()
            await abort(connection.writer)
            return answer.startswith(b"HTTP/1.1 200 ")

        await until(served)
        await is_alive(service, key)
