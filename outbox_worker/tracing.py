"""Traces with OpenTelemetry: whether they are on, and their export. Both programs have the same file.

The variables are OpenTelemetry's own, and the SDK reads most of them itself. Traces are on if
OTEL_TRACES_EXPORTER names an exporter, or if it is absent and an OTLP endpoint is given. Otherwise the
SDK is not even imported, and the programs run without the classes that make spans.

Tracing never keeps a program from its work: a wrong variable or a missing package turns it off, and
spans that cannot be exported are dropped. Both are logged.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import Attributes

from .incident import Incident
from .logs import get_logger, reason
from .release import VERSION

if TYPE_CHECKING:
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
LINK_LIMIT: Final = "OTEL_SPAN_LINK_COUNT_LIMIT"
MAX_LINKS: Final = 5_000
"""The most links of a span unless LINK_LIMIT says otherwise: the default size of the relay's batches. The
SDK's default, 128, would cut off most of a large batch's links."""
FLUSH_S: Final = 0.8
"""The longest wait at the stop for the last spans to be exported. The worker has 10 s for its whole stop,
and needs 9 s of them if its transaction hangs."""

Environment = Mapping[str, str]

log = get_logger(__name__)


def start(environment: Environment, service_name: str) -> "Tracing | None":
    """Start to export spans; None: traces are off.

    Each process that makes spans calls it once, because a thread of its own exports them. `service_name`
    is the default of OTEL_SERVICE_NAME.
    """
    exporters = chosen_exporters(environment)
    if not exporters:
        return None
    try:
        tracing = _started(environment, exporters, service_name)
    except Exception as error:  # noqa: BLE001 - a wrong OTEL_* variable must not stop the program
        log.warning("traces.off", error=reason(error))
        return None
    log.info("traces.on", exporters=exporters)
    return tracing


def chosen_exporters(environment: Environment) -> list[str]:
    """Return the names of the exporters, as packages register them; an empty list: traces are off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    has_endpoint = any(environment.get(name) for name in ENDPOINTS)
    given = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if has_endpoint else "none")
    names = [name.strip() for name in given.split(",")]
    if "none" in names:
        return []
    protocol = next(filter(None, map(environment.get, PROTOCOLS)), "http/protobuf")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    return [otlp if name == "otlp" else name for name in names if name]


def _started(environment: Environment, exporters: list[str], service_name: str) -> "Tracing":
    from opentelemetry import propagate  # noqa: PLC0415 - it fails if OTEL_PROPAGATORS is wrong
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the SDK is an extra
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above

    resource = Resource({"service.version": VERSION}).merge(Resource.create())
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service_name}))
    limits = SpanLimits(max_links=None if environment.get(LINK_LIMIT) else MAX_LINKS)
    provider = TracerProvider(resource=resource, span_limits=limits, shutdown_on_exit=False)
    problem = _ExportProblem()
    for name in exporters:
        exporter = _reporting(_exporter(name), problem)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    sdk = logging.getLogger(
        "opentelemetry"
    )  # until now, it has logged what is wrong with variables
    sdk.handlers = [problem]
    sdk.propagate = False
    return Tracing(provider, propagate.get_global_textmap())


def _exporter(name: str) -> "SpanExporter":
    """Make an exporter; it reads its own variables."""
    for entry_point in entry_points(group="opentelemetry_traces_exporter", name=name):
        exporter: SpanExporter = entry_point.load()()
        return exporter
    raise LookupError(f"no installed package has the exporter {name}")


class Tracing:
    """Makes the spans of this process, which are exported until `aclose`."""

    def __init__(self, provider: "TracerProvider", propagator: "TextMapPropagator") -> None:
        self._provider = provider
        self.propagator = propagator
        """Reads the caller's context from a request, in the formats of OTEL_PROPAGATORS."""
        self.tracer = provider.get_tracer("document-links", VERSION)

    def start_batch_span(
        self,
        name: str,
        traceparents: Iterable[str | None],
        kind: SpanKind,
        attributes: Attributes,
        start_time: int | None = None,
    ) -> Span:
        """Start a span of work that is done for several calls together, with a link to each of them.

        Its parent is the first call that is sampled. Otherwise a sampler that decides by the parent would
        drop most batches of sampled calls. Calls that are not sampled get no link, because their spans are
        not exported. `start_time` is in nanoseconds since 1970; None: now.
        """
        given = [*dict.fromkeys(filter(None, traceparents))]
        sampled = [*filter(None, map(context_of, filter(_is_sampled, given)))]
        parent = next(iter(sampled), None) or next(filter(None, map(context_of, given)), None)
        within = Context()
        if parent is not None:
            within = set_span_in_context(NonRecordingSpan(parent), within)
        links = [Link(context) for context in sampled]
        return self.tracer.start_span(name, within, kind, attributes, links, start_time)

    async def aclose(self) -> None:
        """Export the last spans, for at most FLUSH_S."""
        ended, loop = asyncio.Event(), asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()  # it waits up to 30 s for an unreachable collector
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=shut_down, name="flush-spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await ended.wait()


def traceparent_of(context: SpanContext) -> str:
    """Return a span's context as the header `traceparent` (W3C Trace Context, version 00)."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def context_of(traceparent: str) -> SpanContext | None:
    """Return the context that a `traceparent` of version 00 names; None: it is invalid."""
    try:
        _, trace_id, span_id, flags = traceparent.split("-")
        context = SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(int(flags, 16)),
        )
    except ValueError:
        return None
    return context if context.is_valid else None


def _is_sampled(traceparent: str) -> bool:
    return traceparent[-1] in "13579bdf"  # the lowest bit of the flags


class _ExportProblem(logging.Handler):
    """Logs that spans are dropped once when it begins and once when it is over.

    It handles the log records of the SDK, which logs each attempt. The SDK calls it in the exporting
    thread, and in the others when its queue is full.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._incident = Incident()
        self._dropped = False
        """Whether spans were dropped since the last export that succeeded."""

    def emit(self, record: logging.LogRecord) -> None:
        """Note that spans could not be exported, for the reason in the record."""
        error = record.exc_info[1] if record.exc_info else None
        self.note_failure(reason(error) if error else record.getMessage().partition("\n")[0])

    def note_failure(self, why: str) -> None:
        """Log the beginning of the problem."""
        self._dropped = True
        if self._incident.fail("export"):
            log.warning("traces.export_failed", error=why)

    def note_success(self) -> None:
        """Log the end of the problem after two exports without a failure or a full queue between them."""
        if not self._dropped and self._incident.succeed():
            log.warning("traces.export_recovered")
        self._dropped = False


def _reporting(exporter: "SpanExporter", problem: _ExportProblem) -> "SpanExporter":
    """Let the exporter report each success and each failure."""
    from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 - the SDK is an extra

    export: Callable[[Any], SpanExportResult] = exporter.export

    def reported(spans: Any) -> SpanExportResult:  # noqa: ANN401 - the SDK's own
        result = export(spans)
        if result is SpanExportResult.SUCCESS:
            problem.note_success()
        else:
            problem.note_failure("the exporter has failed")
        return result

    exporter.export = reported  # type: ignore[method-assign] # a class would have to be made of the SDK's
    return exporter
