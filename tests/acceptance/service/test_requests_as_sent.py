"""Raw requests as callers and proxies send them, and the answers that the RFCs require."""

import asyncio
import json
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from deploy.local import programs
from deploy.local.postgres import Postgres
from tests.support.parts.shared import TEMPLATE, execute
from tests.support.service.api import GENEROUS, new_key, seed
from tests.support.streams import abort

DEADLINE_S = 30.0
JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
OFFER = b"Upgrade: h2c\r\nConnection: Upgrade, close\r\n"
DOC = "/v1/documents/doc_1"
FIND = "/v1/documents?"


class Sent(NamedTuple):
    """A request, and the answer that it must get."""

    status: int
    start: str
    """Method and target; HTTP/1.1 unless it says otherwise."""
    fields: bytes = b""
    body: bytes | None = None
    """None: neither a body nor a Content-Length; the fields may say how what follows is framed."""
    after: bytes = b""
    """Sent behind the head as it is."""
    says: bytes = b""
    """What the answer contains."""


def post(status: int, body: bytes, says: bytes = b"", fields: bytes = b"") -> Sent:
    """Return a change of a document with this body."""
    return Sent(status, f"POST {DOC}", JSON + fields, body, says=says)


def chunked(status: int, chunks: bytes, says: bytes = b"", fields: bytes = b"") -> Sent:
    """Return a change of a document whose body is sent in these chunks."""
    return Sent(status, f"POST {DOC}", JSON + CHUNKED + fields, after=chunks, says=says)


def tagged(status: int, fields: bytes, start: str = "GET /v1/documents/doc_2") -> Sent:
    """Return a call with conditions; the document is at revision 1, and nobody writes to it."""
    return Sent(status, start, fields)


PUT_ENTITY = "PUT /v1/entities/deal/deal_1"
TABLE = {
    # methods
    "HEAD": Sent(200, f"HEAD {DOC}"),
    "HEAD of what is not there": Sent(404, "HEAD /v1/documents/none"),
    "OPTIONS": Sent(204, f"OPTIONS {DOC}", says=b"allow: DELETE, GET, HEAD, OPTIONS, POST, PUT"),
    "TRACE": Sent(405, f"TRACE {DOC}", says=b"method_not_allowed"),
    "method in lower case": Sent(400, f"get {DOC}"),
    "method override": post(200, b"{}", fields=b"X-HTTP-Method-Override: DELETE\r\n"),
    # targets
    "absolute form": Sent(200, f"GET http://user@other.example:1{DOC}"),
    "slash in an id": Sent(404, "GET /v1/documents/doc%2F1"),
    "slash in disguise": Sent(404, "GET /v1/documents%2fdoc_1"),
    "NUL in an id": Sent(400, "GET /v1/documents/doc%001"),
    "invalid UTF-8 in an id": Sent(400, "GET /v1/documents/doc%ff"),
    "half an escape": Sent(400, "GET /v1/documents/doc%"),
    "escape that need not be": Sent(200, "GET /v1/documents/%64oc_1"),
    "two slashes": Sent(404, f"GET /{DOC}"),
    "slash at the end": Sent(404, f"GET {DOC}/"),
    "dots": Sent(404, "GET /v1/documents/x/../doc_1"),
    "dots in disguise": Sent(404, "GET /v1/documents/x/%2e%2e/doc_1"),
    "composed letter": Sent(400, "PUT /v1/entities/deal/%C3%A9"),
    "decomposed letter": Sent(400, "PUT /v1/entities/deal/e%CC%81"),
    "longest id": Sent(201, f"PUT /v1/entities/deal/{'a' * 128}"),
    "longer id": Sent(400, f"PUT /v1/entities/deal/{'a' * 129}"),
    # queries
    "plus is a space": Sent(400, f"GET {FIND}resource_id=ship+1"),
    "semicolon is no separator": Sent(400, f"GET {FIND}resource_id=ship_1;page=2"),
    "empty parameters": Sent(200, f"GET {FIND}&&resource_id=ship_1&"),
    "empty name": Sent(400, f"GET {FIND}=x&resource_id=ship_1"),
    "no value": Sent(400, f"GET {FIND}resource_id"),
    "name twice": Sent(400, f"GET {FIND}resource_id=a&resource_id=a", says=b"is given twice"),
    "nothing behind the mark": Sent(200, f"GET {DOC}?"),
    "invalid UTF-8 in a value": Sent(400, f"GET {FIND}resource_id=%ff"),
    # header lines
    "Content-Type twice": post(415, b"{}", fields=JSON),
    "Content-Type in other letters": Sent(
        200, f"POST {DOC}", b"CONTENT-TYPE: Application/JSON\r\n", b"{}"
    ),
    "another JSON type": Sent(
        415, f"POST {DOC}", b"Content-Type: application/merge-patch+json\r\n", b"{}"
    ),
    "Idempotency-Key twice": post(400, b"{}", fields=b"Idempotency-Key: a\r\n" * 2),
    "empty Idempotency-Key": post(400, b"{}", fields=b"Idempotency-Key:\r\n"),
    "quoted Idempotency-Key": post(200, b"{}", fields=b'Idempotency-Key: "a,b"\r\n'),
    "key twice": Sent(200, f"GET {DOC}", b"X-API-KEY: {key}\r\n"),
    "other key first": Sent(200, f"GET {DOC}", b"Authorization: Basic eDp5\r\n"),
    "X-Request-ID twice": Sent(200, f"GET {DOC}", b"X-Request-ID: a\r\n" * 2, says=b"id: req_"),
    "Accept without JSON": Sent(200, f"GET {DOC}", b"Accept: application/xml\r\n"),
    "Range": Sent(200, f"GET {DOC}", b"Range: bytes=0-1\r\n"),
    "Forwarded": Sent(
        200, f"GET {FIND}resource_id=x", b"Forwarded: host=evil\r\nX-Forwarded-Prefix: /evil\r\n"
    ),
    "space before the colon": Sent(400, "GET /healthz", b"X : y\r\n"),
    "control character": Sent(400, "GET /healthz", b"X: a\x01b\r\n"),
    "long name": Sent(200, "GET /healthz", b"x" * 60_000 + b": y\r\n"),
    "longer name": Sent(431, "GET /healthz", b"x" * 70_000 + b": y\r\n"),
    # conditions
    "tag": tagged(304, b'If-None-Match: "1"\r\n'),
    "weak tag": tagged(304, b'If-None-Match: W/"1"\r\n'),
    "comma in a tag": tagged(200, b'If-None-Match: "a,1", W/"x,y"\r\n'),
    "tag behind a comma in a tag": tagged(304, b'If-None-Match: "a,b","1"\r\n'),
    "tags in two lines": tagged(304, b'If-None-Match: "0"\r\nIf-None-Match: "1"\r\n'),
    "star and a tag": tagged(400, b'If-None-Match: *, "1"\r\n'),
    "weak star": tagged(400, b"If-None-Match: W/*\r\n"),
    "entity that is known": tagged(200, b"If-Match: *\r\n", PUT_ENTITY),
    "tag of an entity": tagged(412, b'If-Match: "1"\r\n', PUT_ENTITY),
    "entity that must be new": tagged(412, b"If-None-Match: *\r\n", PUT_ENTITY),
    "other tag of an entity": tagged(200, b'If-None-Match: "1"\r\n', PUT_ENTITY),
    "unknown entity": tagged(412, b"If-Match: *\r\n", "PUT /v1/entities/deal/never"),
    "entity that is new": tagged(201, b"If-None-Match: *\r\n", "PUT /v1/entities/deal/new"),
    "malformed tag of an entity": tagged(400, b"If-Match: 1\r\n", PUT_ENTITY),
    "deletion by tag": tagged(412, b'If-Match: "1"\r\n', "DELETE /v1/entities/deal/deal_1"),
    "deletion of nothing": tagged(412, b"If-None-Match: *\r\n", "DELETE /v1/entities/deal/deal_1"),
    "deletion of what exists": tagged(200, b"If-Match: *\r\n", "DELETE /v1/entities/deal/deal_2"),
    "deletion of what never was": tagged(404, b"If-Match: *\r\n", "DELETE /v1/entities/deal/none"),
    # framing
    "Expect": post(100, b"{}", fields=b"Expect: 100-continue\r\n", says=b"HTTP/1.1 200 "),
    "chunks": chunked(200, b"1;a=b\r\n{\r\n1\r\n}\r\n0\r\nX-Trailer: y\r\n\r\n"),
    "both lengths": chunked(400, b"2\r\n{}\r\n0\r\n\r\n", fields=b"Content-Length: 2\r\n"),
    "endless trailer": chunked(413, b"2\r\n{}\r\n0\r\nX: " + b"y" * (9 << 20), b"payload_too_large"),
    "endless extension": chunked(413, b"2;" + b"y" * (9 << 20), b"payload_too_large"),
    "offer of HTTP/2": post(200, b"{}", fields=OFFER),
    "offer of HTTP/2 with chunks": chunked(200, b"2\r\n{}\r\n0\r\n\r\n", fields=OFFER),
    "offer of HTTP/2 twice": Sent(
        200, "GET /healthz", OFFER.replace(b", close", b""),
        after=b"GET /none HTTP/1.1\r\nHost: a\r\n" + OFFER + b"\r\n", says=b"HTTP/1.1 404 ",
    ),
    "offer without a Host": Sent(400, "GET / HTTP/1.1", OFFER + b"Host: b\r\n", says=b"Host: has to be"),
    "length with a sign": Sent(400, f"POST {DOC}", JSON + b"Content-Length: +2\r\n", after=b"{}"),
    "length with a zero": Sent(200, f"POST {DOC}", JSON + b"Content-Length: 02\r\n", after=b"{}"),
    "length beyond 64 bits": Sent(
        400, f"POST {DOC}", JSON + b"Content-Length: 99999999999999999999\r\n", after=b"{}"
    ),
    "HTTP/1.0": Sent(200, f"POST {DOC} HTTP/1.0", JSON, b"{}"),
    "HTTP/1.0 and keep-alive": Sent(200, f"GET {DOC} HTTP/1.0", b"Connection: keep-alive\r\n"),
    "HTTP/2": Sent(400, "PRI * HTTP/2.0", after=b"SM\r\n\r\n"),
    # bodies
    "no body": Sent(400, f"PUT {DOC}", says=b"the body is missing"),
    "no body and a type": Sent(400, f"PUT {DOC}", JSON, says=b"the body is missing"),
    "body of no length": Sent(400, f"POST {DOC}", JSON, b"", says=b"the body is missing"),
    "call that takes no body": Sent(200, "POST /v1/documents/doc_2/restore"),
    "body that nobody asked for": Sent(200, PUT_ENTITY, b"Content-Type: text/plain\r\n", b"x"),
    "byte order mark": post(200, b"\xef\xbb\xbf{}"),
    "two of them": post(400, b"\xef\xbb\xbf\xef\xbb\xbf{}"),
    "UTF-16": post(400, "{}".encode("utf-16")),
    "gzip": post(415, b"\x1f\x8b", b"accept-encoding: identity", b"Content-Encoding: gzip\r\n"),
    "lone surrogate": post(400, b'{"display_name":"\\ud800"}'),
    "surrogates in the wrong order": post(400, b'{"metadata":{"a":"\\udc00\\ud800"}}'),
    "pair of surrogates": post(200, b'{"metadata":{"a":"\\ud83e\\udde8"}}', "🧨".encode()),
    "NUL": post(400, b'{"display_name":"a\\u0000"}', b"must not contain NUL"),
    "raw control character": post(400, b'{"display_name":"a\nb"}'),
    "number beyond doubles": post(400, b'{"metadata":{"a":1E400}}', b"out of the range"),
    "number below doubles": post(200, b'{"metadata":{"a":1e-400}}', b'"a":0.0'),
    "minus zero": post(200, b'{"metadata":{"a":-0.0}}', b'"a":0.0'),
    "whole number with an exponent": post(200, b'{"metadata":{"a":1e16}}', b'"a":10000000000000000'),
    "no number": post(400, b'{"metadata":{"a":NaN}}'),
    "name twice in an object": post(200, b'{"category":"a","category":"b"}', b'"category":"b"'),
    "unknown name twice": post(400, b'{"x":1,"x":2}', b"is not known"),
    "something behind it": post(400, b"{} {}"),
}  # fmt: skip


@pytest.fixture(scope="module")
def stage(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Yield the address of a service with documents and entities, and a key."""
    name = f"test_{uuid4().hex}"
    dsn = postgres.dsn(name)
    asyncio.run(execute(postgres.dsn(), f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    key = asyncio.run(_seeded(dsn))
    logs = tmp_path_factory.mktemp("service")
    with programs.service(dsn, logs, LINKS_RATE_LIMIT=GENEROUS) as service:
        yield service.url, key
    assert "Traceback" not in service.log.read_text()
    asyncio.run(execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)"))


async def _seeded(dsn: str) -> str:
    key = await new_key(dsn)
    connection = await asyncpg.connect(dsn)
    await seed(connection, 2, 2)
    await connection.close()
    return key


async def answered(url: str, request: bytes) -> bytes:
    """Return all data until the service closes the connection."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    async with asyncio.timeout(DEADLINE_S):
        sending = asyncio.create_task(_send(writer, request))
        try:
            answer = await reader.read()
        finally:
            sending.cancel()
    await abort(writer)
    return answer


async def _send(writer: asyncio.StreamWriter, request: bytes) -> None:
    try:
        writer.write(request)
        await writer.drain()
    except ConnectionError:
        pass  # it has been answered before its end


@pytest.mark.parametrize("sent", TABLE.values(), ids=TABLE)
async def test_request(stage: tuple[str, str], sent: Sent) -> None:
    """Each request is answered with its status; a refusal is a problem with the same status."""
    url, key = stage
    version = "" if " HTTP/" in sent.start else " HTTP/1.1"
    fields = b"Host: test\r\nX-API-KEY: {key}\r\n" + sent.fields
    if b"Connection:" not in fields:
        fields += b"Connection: close\r\n"
    if sent.body is not None:
        fields += b"Content-Length: %d\r\n" % len(sent.body)
    head = f"{sent.start}{version}\r\n".encode() + fields.replace(b"{key}", key.encode())
    answer = await answered(url, head + b"\r\n" + (sent.body or b"") + sent.after)
    first, _, content = answer.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % sent.status), answer
    assert sent.says in answer
    if sent.status >= 400 and not sent.start.startswith("HEAD"):
        assert json.loads(content)["status"] == sent.status
