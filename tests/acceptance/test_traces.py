"""A trace from the caller through both programs to a subscriber, at a collector that speaks OTLP."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
from opentelemetry.propagate import inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind

from deploy.local import programs
from deploy.local.process import free_port
from tests.support.parts.collector import CollectedSpan, Collector, SpanId, collecting
from tests.support.relay.worker import Worker
from tests.support.service.api import Api, new_key, seed
from tests.support.topic import topics
from tests.support.waiting import until

CALLS = 20
"""Concurrent calls, each in a trace of its own and on a connection of its own."""
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
TRACESTATE = "vendor=opaque"


def exporting(name: str, collector: Collector) -> TracerProvider:
    """Return a provider whose spans the collector gets at once."""
    provider = TracerProvider(resource=Resource({"service.name": name}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{collector.url}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


async def link_traced(url: str, key: str, provider: TracerProvider, number: int) -> SpanId:
    """Link a document within a span of the caller; return this span."""
    headers = {"X-API-KEY": key, "tracestate": TRACESTATE}
    with provider.get_tracer("caller").start_as_current_span("call", kind=SpanKind.CLIENT) as span:
        inject(headers)
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            made = await Api(client, key).add(f"doc_{number}", "ship_1")
    assert made.status_code == 201, made.text
    context = span.get_span_context()
    return SpanId(f"{context.trace_id:032x}", f"{context.span_id:016x}")


@contextmanager
def instrumented(provider: TracerProvider) -> Iterator[None]:
    """Instrument aiokafka, as `opentelemetry-instrument` does for a subscriber."""
    instrumentor = AIOKafkaInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield
    finally:
        instrumentor.uninstrument()


async def subscribe(kafka: str, topic: str, count: int) -> list[topics.Record]:
    """Read so many events as a subscriber without any code for traces."""
    reading: dict[str, Any] = {"isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(topic, bootstrap_servers=kafka, **reading) as consumer:
        return [await consumer.getone() for _ in range(count)]


class Trace(NamedTuple):
    """A call's spans: the caller's, the service's, and the subscriber's for the call's event."""

    caller: SpanId
    server: CollectedSpan
    consumer: CollectedSpan


async def traces_of(collector: Collector, topic: str, callers: list[SpanId]) -> list[Trace]:
    """Return the spans of each call when all have been collected."""
    servers = await collector.wait_for("POST /v1/documents/{id}/links", len(callers))
    consumers = await collector.wait_for(f"{topic} receive", len(callers))
    server_of = {(span.id.trace, span.parent): span for span in servers}
    consumer_of = {(span.id.trace, span.parent): span for span in consumers}
    return [
        Trace(caller, server_of[caller], consumer_of[server_of[caller].id]) for caller in callers
    ]


async def linked(collector: Collector, name: str, to: set[SpanId]) -> list[CollectedSpan]:
    """Return the spans whose name begins so, once their links are exactly those spans."""

    async def complete() -> list[CollectedSpan]:
        found = collector.named(name)
        return found if {link for span in found for link in span.links} == to else []

    return await until(complete)


async def test_a_trace_goes_from_the_caller_to_the_subscriber(
    database: str, kafka: str, topic: str, tmp_path: Path
) -> None:
    """The spans of both service processes and of a subscriber join the callers' traces.

    The spans of transactions and batches link to all calls in them, and have no key and no body.
    """
    connection = await asyncpg.connect(database)
    key = await new_key(database)
    await seed(connection, CALLS, 1)
    with collecting() as collector:
        settings = {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        caller, subscriber = exporting("caller", collector), exporting("subscriber", collector)
        with (
            programs.service(database, tmp_path, LINKS_WORKERS="2", **settings) as service,
            Worker(database, kafka, topic, **settings),
        ):
            calls = [link_traced(service.url, key, caller, n + 1) for n in range(CALLS)]
            callers = await asyncio.gather(*calls)
            with instrumented(subscriber):
                records = await subscribe(kafka, topic, CALLS)
            traces = await traces_of(collector, topic, callers)
            servers = {trace.server.id for trace in traces}
            transactions = await linked(collector, "TRANSACTION ", servers)
            batches = await linked(collector, f"send {topic}", servers)
    owner = await connection.fetchrow("SELECT workspace_id::text, id FROM api_keys")
    assert owner is not None
    workspace, key_id = owner
    await connection.close()
    for trace in traces:
        check_server(trace.server, key_id, workspace)
    assert len({trace.server.process for trace in traces}) == 2
    links_of = {trace.server.id: trace.server.links for trace in traces}
    for span in transactions:
        check_transaction(span, database.rpartition("/")[2])
        assert all(span.id in links_of[call] for call in span.links)
    for span in batches:
        check_batch(span, topic)
    assert {check_record(record) for record in records} == servers
    exported = b"".join(collector.requests)
    assert key.encode() not in exported
    assert b"ship_1" not in exported  # it is in the bodies


def check_server(span: CollectedSpan, key_id: str, workspace: str) -> None:
    """See that a server span follows the semantic conventions, and names its caller."""
    assert (span.program, span.kind, span.failed) == ("document-links-service", "SERVER", False)
    attributes = dict(span.attributes)
    assert attributes.pop("url.path").startswith("/v1/documents/doc_")
    assert attributes.pop("user_agent.original").startswith("python-httpx")
    assert attributes.pop("links.request.id").startswith("req_")
    assert attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "http.route": "/v1/documents/{id}/links",
        "links.key.id": key_id,
        "links.workspace.id": workspace,
        "url.scheme": "http",
    }


def check_record(record: topics.Record) -> SpanId:
    """See that an event and its headers name one context; return it."""
    event, headers = json.loads(record.value), dict(record.headers)
    assert headers["traceparent"].decode() == event["traceparent"]
    assert headers["tracestate"].decode() == event["tracestate"] == TRACESTATE
    _, trace, span, _ = event["traceparent"].split("-")
    return SpanId(trace, span)


def check_transaction(span: CollectedSpan, database: str) -> None:
    """See that a transaction's span follows the conventions for databases, within a call of it."""
    assert (span.name, span.kind, span.failed) == (f"TRANSACTION {database}", "CLIENT", False)
    assert SpanId(span.id.trace, span.parent) in span.links
    # One statement writes a link that arrives alone, without a read before it.
    alone = len(span.links) == 1
    assert span.events == ["read", "saved"] or (alone and span.events == [])
    attributes = dict(span.attributes)
    assert attributes.pop("db.operation.batch.size", 1) == len(span.links)
    assert attributes == {
        "db.system.name": "postgresql",
        "db.namespace": database,
        "db.operation.name": "TRANSACTION",
    }


def check_batch(span: CollectedSpan, topic: str) -> None:
    """See that a batch's span follows the conventions for messaging, within a call of it."""
    assert (span.program, span.kind) == ("document-links-outbox-worker", "PRODUCER")
    assert SpanId(span.id.trace, span.parent) in span.links
    assert span.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": topic,
        "messaging.batch.message_count": len(span.links),
    }


async def test_an_unreachable_collector_is_logged_once(database: str, tmp_path: Path) -> None:
    """Calls succeed without a collector; a change is logged once, and the stop does not wait for it."""
    key = await new_key(database)
    connection = await asyncpg.connect(database)
    await seed(connection, 1, 3)
    await connection.close()
    port = free_port()
    settings = {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    with programs.service(database, tmp_path, **settings) as service:
        headers = {"X-API-KEY": key}
        async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=30) as client:
            api = Api(client, key)

            async def logged(event: str) -> bool:
                assert (await client.get("/v1/documents/doc_1/links")).status_code == 200
                return event in traces_logged(service)

            assert (await api.add("doc_1", "ship_1")).status_code == 201
            await until(lambda: logged("traces.export_failed"))
            with collecting(port) as collector:
                await until(lambda: logged("traces.export_recovered"))
                assert collector.spans
            assert (await api.add("doc_1", "ship_2")).status_code == 201
        assert service.end(timeout_s=15) == 0
    assert traces_logged(service)[:3] == [
        "traces.on", "traces.export_failed", "traces.export_recovered"
    ]  # fmt: skip
    assert len(traces_logged(service)) <= 4  # the collector is unreachable again at the end


def traces_logged(program: programs.Program) -> list[str]:
    """Return the events about traces in a program's log."""
    lines = [json.loads(line) for line in program.log.read_text().splitlines()]
    return [line["event"] for line in lines if line["event"].startswith("traces.")]


USE_NEITHER = """
import sys
import outbox_worker.__main__
from service.app import create_app
app = create_app({"DATABASE_URL": "postgresql://u@h/d"})
print(type(app).__name__, [name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""


def test_the_sdk_is_not_imported_without_traces() -> None:
    """Without OpenTelemetry's variables the programs run without its SDK, and without a class for spans."""
    command = [sys.executable, "-c", USE_NEITHER]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "Gate []\n"
