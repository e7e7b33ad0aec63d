"""The spans of calls and of transactions, in one process, and what the events of traced calls name."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from service.tracing import Tracing, traceparent_of
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.topic.subscriber import read_outbox

UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
SECRET = "wbk_" + "x" * 52


@pytest.fixture
def exported() -> InMemorySpanExporter:
    """Return where the spans are."""
    return InMemorySpanExporter()


@pytest.fixture
def traces(exported: InMemorySpanExporter) -> Tracing:
    """Return what makes the spans."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Tracing(provider, get_global_textmap())


@pytest.fixture
async def traced(
    database: str, connection: asyncpg.Connection, traces: Tracing
) -> AsyncIterator[Api]:
    """Yield a client of a service that makes spans."""
    key = await new_key(database)
    await seed(connection, 20, 20)
    async with Service(database, traces) as service:
        yield await service.api(key)


def spans(exported: InMemorySpanExporter, kind: str) -> list[ReadableSpan]:
    """Return the ended spans of a kind."""
    return [span for span in exported.get_finished_spans() if span.kind.name == kind]


def id_of(span: ReadableSpan) -> int:
    """Return the span's id."""
    assert span.context is not None
    return int(span.context.span_id)


async def traceparents(connection: asyncpg.Connection) -> list[str]:
    """Return the context that each event names."""
    return [msgspec.json.decode(value)["traceparent"] for value in await read_outbox(connection)]


@pytest.mark.parametrize(
    ("request_line", "name", "status"),
    [
        ("GET /nothing/here", "GET", 404),
        ("GET /v1/documents/doc_99", "GET /v1/documents/{id}", 404),
        ("BREW /v1/documents/doc_1", "HTTP /v1/documents/{id}", 405),
        ("GET /docs", "GET /docs", 200),
    ],
)
async def test_a_call_has_a_span(
    traced: Api, exported: InMemorySpanExporter, request_line: str, name: str, status: int
) -> None:
    """Its name has the method and the route; a refused call is no failure of the service."""
    method, path = request_line.split()
    await traced.client.request(method, path, params={"api_key": SECRET})
    (span,) = spans(exported, "SERVER")
    assert span.name == name
    assert span.status.status_code is StatusCode.UNSET
    attributes = dict(span.attributes or {})
    assert attributes["http.response.status_code"] == status
    assert attributes["url.path"] == path
    assert attributes.get("http.route") == (name.partition(" ")[2] or None)
    assert (attributes["http.request.method"] == "_OTHER") is (method == "BREW")
    assert SECRET not in str(attributes)


async def test_probes_have_no_span(traced: Api, exported: InMemorySpanExporter) -> None:
    """Probes and scrapes make no span."""
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await traced.client.get(path)).status_code == 200
    assert spans(exported, "SERVER") == []


async def test_a_call_without_a_caller_begins_a_trace(
    traced: Api, exported: InMemorySpanExporter, connection: asyncpg.Connection
) -> None:
    """The event names the span of its call, which the span of the transaction is a child of."""
    assert (await traced.add("doc_1", "ship_1")).status_code == 201
    (call,), (transaction,) = spans(exported, "SERVER"), spans(exported, "CLIENT")
    assert call.parent is None
    assert call.context is not None
    assert transaction.parent is not None
    assert await traceparents(connection) == [traceparent_of(call.context)]
    assert transaction.parent.span_id == id_of(call)


async def test_a_group_is_linked_to_each_call_and_each_call_to_it(
    traced: Api, exported: InMemorySpanExporter
) -> None:
    """Calls that share a transaction have one span of it, with a link to each; each has a link to it."""
    made = await asyncio.gather(*(traced.add(f"doc_{n}", "ship_1") for n in range(1, 9)))
    assert {each.status_code for each in made} == {201}
    transactions = spans(exported, "CLIENT")
    links_of = {
        id_of(span): {link.context.span_id for link in span.links}
        for span in spans(exported, "SERVER")
    }
    for span in transactions:
        for link in span.links:
            assert id_of(span) in links_of[link.context.span_id]
    assert sum(len(span.links) for span in transactions) == 8 > len(transactions)


async def test_an_unsampled_call_has_no_span(
    traced: Api, exported: InMemorySpanExporter, connection: asyncpg.Connection
) -> None:
    """The decision of the caller not to sample is kept: nothing is exported, and the event says so."""
    await traced.add("doc_1", "ship_1", {"traceparent": UNSAMPLED})
    assert exported.get_finished_spans() == ()
    (named,) = await traceparents(connection)
    assert (named[:35], named[-2:]) == (UNSAMPLED[:35], "00")
    assert named != UNSAMPLED


async def test_a_failed_transaction(
    traced: Api, exported: InMemorySpanExporter, connection: asyncpg.Connection
) -> None:
    """The spans of a transaction that failed, and of its call, say why, without the text of the error."""
    await connection.execute("DROP FUNCTION save_changes")
    keyed = {"Idempotency-Key": "k"}  # a lone link without a key takes one statement
    assert (await traced.add("doc_1", "ship_1", keyed)).status_code == 503
    (call,), (transaction, *_) = spans(exported, "SERVER"), spans(exported, "CLIENT")
    assert [span.status.status_code for span in (call, transaction)] == [StatusCode.ERROR] * 2
    assert call.attributes is not None
    assert transaction.attributes is not None
    assert call.attributes["error.type"] == "503"
    assert transaction.attributes["db.response.status_code"] == "42883"
    assert [event.name for event in transaction.events] == ["read"]


async def test_a_failed_statement(
    traced: Api, exported: InMemorySpanExporter, connection: asyncpg.Connection
) -> None:
    """The span of a lone link, whose one statement is its transaction, says why it failed."""
    await connection.execute("DROP FUNCTION add_link")
    assert (await traced.add("doc_1", "ship_1")).status_code == 503
    (call,), (transaction,) = spans(exported, "SERVER"), spans(exported, "CLIENT")
    assert transaction.attributes is not None
    assert transaction.attributes["db.response.status_code"] == "42883"
    assert transaction.parent is not None
    assert transaction.parent.span_id == id_of(call)
