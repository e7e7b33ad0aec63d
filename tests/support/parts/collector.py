"""A collector of traces: an HTTP server that decodes what OTLP exporters send, and keeps it."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.waiting import until


class SpanId(NamedTuple):
    """A span, as its children and links name it."""

    trace: str
    span: str

    @property
    def traceparent(self) -> str:
        """The header that makes a sampled span the parent of the next program's spans."""
        return f"00-{self.trace}-{self.span}-01"


class CollectedSpan(NamedTuple):
    """A span that a program has exported."""

    program: str
    """The program's OTEL_SERVICE_NAME."""
    process: str
    """A random id of the process."""
    name: str
    kind: str
    id: SpanId
    parent: str
    """The span id of the parent; empty if there is none."""
    links: list[SpanId]
    attributes: dict[str, Any]
    failed: bool
    events: list[str]


class Collector:
    """The spans that have been received, oldest first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[CollectedSpan] = []
        self.requests: list[bytes] = []
        """The requests as they came, decompressed."""

    def receive(self, body: bytes) -> None:
        """Keep the spans of a request."""
        self.requests.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_collected(resource, span) for span in scope.spans]

    def named(self, name: str) -> list[CollectedSpan]:
        """Return the spans whose name begins so."""
        return [span for span in self.spans if span.name.startswith(name)]

    async def wait_for(self, name: str, count: int) -> list[CollectedSpan]:
        """Return the spans whose name begins so, once there are so many."""

        async def enough() -> list[CollectedSpan]:
            found = self.named(name)
            return found if len(found) >= count else []

        return await until(enough)


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """Run a collector on a loopback port; 0: any free one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            good = (self.path, self.headers["content-type"]) == (
                "/v1/traces",
                "application/x-protobuf",
            )
            if good:
                collector.receive(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if good else 400)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Write no access log."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _collected(resource: dict[str, Any], span: trace_pb2.Span) -> CollectedSpan:
    return CollectedSpan(
        resource["service.name"],
        resource.get("service.instance.id", ""),
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        SpanId(span.trace_id.hex(), span.span_id.hex()),
        span.parent_span_id.hex(),
        [SpanId(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        _values(span.attributes),
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        [event.name for event in span.events],
    )


def _values(attributes: Any) -> dict[str, Any]:  # noqa: ANN401 - protobuf's container has no public name
    return {each.key: _value(each) for each in attributes}


def _value(attribute: KeyValue) -> Any:  # noqa: ANN401 - a text, a number, …
    kind = attribute.value.WhichOneof("value")
    return None if kind is None else getattr(attribute.value, kind)
