"""Meaningless bodies, ids and queries, made by hypothesis, sent to a running service."""

import asyncio
import json
from collections.abc import Iterator
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.local import programs
from deploy.local.postgres import Postgres
from tests.support.parts.shared import TEMPLATE, execute
from tests.support.service.api import GENEROUS, new_key

SEED = "INSERT INTO documents (workspace_id, id) SELECT id, 'doc_1' FROM workspaces"
CALLS = [
    ("POST", "/v1/documents"),
    ("POST", "/v1/documents/doc_1"),
    ("PUT", "/v1/documents/doc_1"),
    ("POST", "/v1/documents/doc_1/link"),
    ("POST", "/v1/documents/doc_1/links"),
    ("PATCH", "/v1/documents/doc_1/links/01234567-89ab-7def-8123-456789abcdef"),
    ("POST", "/v1/links/batch"),
]
NAMES = [
    *("id", "display_name", "category", "metadata", "resources", "add", "remove", "set", "role"),
    *("entity_type", "entity_id", "resource_id", "operations", "atomic", "op", "document_id"),
]
ODD_TEXTS = ["", "\0", "\ud800", "\udfff\ud800", "\u202e", "é" * 65, "x" * 5000, "a\nb", "🧨"]
NUMBERS = ["1e400", "-1e400", "1e-400", "-0", "9" * 400, "0.1e1", "1" * 5000, "NaN", "Infinity"]

TEXTS = st.sampled_from([*ODD_TEXTS, "ship_1", "deal", "link", "doc_1"]) | st.text(max_size=20)
SCALARS = st.one_of(
    st.sampled_from(["null", "true", "false", *NUMBERS]),
    st.integers().map(str),
    st.floats(allow_nan=False).map(json.dumps),
    TEXTS.map(json.dumps),
)


def as_object(pairs: list[tuple[str, str]]) -> str:
    """Return a JSON object with these names; a repeated name is in it twice."""
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}"


FIELD_NAMES = st.sampled_from(NAMES) | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(FIELD_NAMES, inner), max_size=4).map(as_object),
    ),
    max_leaves=12,
)
OBJECTS = st.lists(st.tuples(FIELD_NAMES, VALUES), max_size=6).map(as_object)
NESTED = st.builds(
    lambda name, depth: f'{{"{name}":' + '{"a":[' * depth + "]}" * depth + "}",
    st.sampled_from(NAMES),
    st.integers(1, 5000),
)
BODIES = st.one_of(
    OBJECTS.map(str.encode),
    NESTED.map(str.encode),
    st.binary(max_size=200),
    st.builds(lambda text, cut: text.encode()[:-cut], OBJECTS, st.integers(1, 5)),
)
PATIENTLY = settings(
    max_examples=200,
    suppress_health_check=list(HealthCheck),
)


pytestmark = pytest.mark.xdist_group("bad bodies")  # they share what the fixture starts


@pytest.fixture(scope="module")
def client(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Yield a client of a running service whose log must have no key, no body and no traceback."""
    name = f"test_{uuid4().hex}"
    dsn = postgres.dsn(name)
    asyncio.run(execute(postgres.dsn(), f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    key = asyncio.run(new_key(dsn))
    asyncio.run(execute(dsn, SEED))
    logs = tmp_path_factory.mktemp("service")
    levels = {"LINKS_LOG_LEVEL": "debug", "LINKS_RATE_LIMIT": GENEROUS}
    with programs.service(dsn, logs, **levels) as service:
        headers = {"X-API-KEY": key, "Content-Type": "application/json"}
        with httpx.Client(base_url=service.url, headers=headers, timeout=30) as client:
            yield client
        log = service.log.read_text()
    asyncio.run(execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)"))
    assert key not in log
    assert "Traceback" not in log
    assert "s3cret" not in log


def check(answer: httpx.Response) -> None:
    """See that the answer is a success, or a problem with a status of 4xx."""
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    if not answer.is_success:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        assert len(answer.json().get("errors", [])) <= 20


@PATIENTLY
@given(st.sampled_from(CALLS), BODIES)
def test_any_body_is_answered(client: httpx.Client, call: tuple[str, str], body: bytes) -> None:
    """The answer to any body is a success or a 4xx, and the service serves the next call."""
    check(client.request(*call, content=body))


IDS = st.text(min_size=1, max_size=30).map(
    lambda text: quote(text.encode("utf-8", "replace"), safe="")
)
ODD_IDS = st.sampled_from(
    ["%2F", "%00", "%ff", "..", "%2e%2e", "%", "%zz", "a%0Ab", "x" * 129, ";", "*"]
)
PATHS = st.sampled_from(
    [
        "/v1/documents/{}",
        "/v1/documents/{}/links",
        "/v1/documents/doc_1/links/{}",
        "/v1/entities/deal/{}",
        "/v1/entities/{}/deal_1",
        "/v1/entities/deal/{}/documents",
        "/schemas/{}.json",
        "/{}",
    ]
)


@PATIENTLY
@given(st.sampled_from(["GET", "PUT", "POST", "DELETE", "OPTIONS"]), PATHS, IDS | ODD_IDS)
def test_any_id_is_answered(client: httpx.Client, method: str, path: str, name: str) -> None:
    """The answer to an id with odd characters or encoded slashes is a success or a 4xx."""
    url = httpx.URL(str(client.base_url)).copy_with(raw_path=path.format(name).encode())
    check(client.request(method, url, content=b"{}"))


@PATIENTLY
@given(
    st.sampled_from(
        ["/v1/documents/doc_1/links", "/v1/documents", "/v1/entities/deal/d/documents"]
    ),
    st.lists(
        st.tuples(
            st.sampled_from(["page", "limit", "cursor", "resource_id", "resource_type", "role"])
            | st.text(max_size=5),
            st.text(max_size=20) | st.integers().map(str),
        ),
        max_size=4,
    ),
)
def test_any_query_is_answered(
    client: httpx.Client, path: str, query: list[tuple[str, str]]
) -> None:
    """The answer to any query string is a success or a 4xx."""
    pairs = [
        f"{quote(n.encode('utf-8', 'replace'))}={quote(v.encode('utf-8', 'replace'))}"
        for n, v in query
    ]
    check(client.get(f"{path}?{'&'.join(pairs)}"))


@PATIENTLY
@given(
    st.sampled_from(["Idempotency-Key", "If-Match", "X-Request-ID", "traceparent", "Content-Type"]),
    st.binary(max_size=300).map(lambda value: value.translate(None, b"\r\n\0").strip()),
)
def test_any_header_is_answered(client: httpx.Client, name: str, value: bytes) -> None:
    """The answer to any value of a header that the service reads is a success or a 4xx."""
    headers = {name.encode(): value.translate(None, bytes(range(32)) + b"\x7f")}
    check(client.post("/v1/documents/doc_1", content=b'{"category":"s3cret"}', headers=headers))


def test_ten_thousand_unknown_fields(client: httpx.Client) -> None:
    """At most twenty errors of a body are reported.

    What such a body costs is held by test_longest_step.py.
    """
    body = json.dumps({f"field_{number}": number for number in range(10_000)})
    for method, path in CALLS:
        answer = client.request(method, path, content=body)
        assert answer.status_code == 400
        assert len(answer.json()["errors"]) == 20
