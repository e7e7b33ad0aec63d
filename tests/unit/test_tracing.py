"""Whether traces are on, the spans of batches, and the log of failed exports."""

import filecmp
import logging
from pathlib import Path

import pytest
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from service import tracing

TOP = Path(__file__).parents[2]
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
HTTP, GRPC = ["otlp_proto_http"], ["otlp_proto_grpc"]


def call(number: int, *, sampled: bool = True) -> str:
    """Return the context of a call as its event names it."""
    return f"00-{number:032x}-{number:016x}-0{sampled:d}"


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "links"}, []),
        (ENDPOINT, HTTP),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, HTTP),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, []),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": ""}, HTTP),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "True"}, []),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, HTTP),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, HTTP),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", *HTTP]),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, GRPC),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, HTTP),
    ],
)
def test_chosen_exporters(environment: dict[str, str], exporters: list[str]) -> None:
    """OTEL_TRACES_EXPORTER chooses, and an endpoint alone means OTLP; without either, traces are off."""
    assert tracing.chosen_exporters(environment) == exporters


def test_a_missing_exporter_turns_traces_off(caplog: pytest.LogCaptureFixture) -> None:
    """An exporter that no package has is logged, and the program starts without traces."""
    assert tracing.start({"OTEL_TRACES_EXPORTER": "zipkin"}, "links") is None
    (record,) = caplog.records
    assert record.getMessage() == "traces.off"
    assert "no installed package has the exporter zipkin" in vars(record)["error"]


def test_both_programs_have_the_same_file() -> None:
    """The programs never import each other, so each has a copy."""
    assert filecmp.cmp(TOP / "service/tracing.py", TOP / "outbox_worker/tracing.py", shallow=False)


@pytest.fixture
def exported() -> InMemorySpanExporter:
    """Return where the spans of `traces` are."""
    return InMemorySpanExporter()


@pytest.fixture
def traces(exported: InMemorySpanExporter) -> tracing.Tracing:
    """Return what makes spans, with the default sampler, which follows the parent's decision."""
    provider = TracerProvider(
        span_limits=SpanLimits(max_links=tracing.MAX_LINKS), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return tracing.Tracing(provider, get_global_textmap())


@pytest.mark.parametrize(
    ("calls", "parent", "links"),
    [
        ([], None, []),
        ([None, "malformed", "00-0-0-01"], None, []),
        ([call(1)], 1, [1]),
        ([None, call(1, sampled=False), call(2), call(3), call(2)], 2, [2, 3]),
        ([call(number) for number in range(1, 1001)], 1, [*range(1, 1001)]),
    ],
)
def test_a_batch_is_linked_to_its_sampled_calls(
    traces: tracing.Tracing,
    exported: InMemorySpanExporter,
    calls: list[str | None],
    parent: int | None,
    links: list[int],
) -> None:
    """The parent is the first sampled call, and each sampled call has one link."""
    traces.start_batch_span("batch", calls, SpanKind.CLIENT, {}).end()
    (span,) = exported.get_finished_spans()
    assert (span.parent and span.parent.span_id) == parent
    assert [link.context.span_id for link in span.links] == links


def test_a_batch_without_a_sampled_call_is_not_sampled(
    traces: tracing.Tracing, exported: InMemorySpanExporter
) -> None:
    """Calls that are not sampled have no span of a batch."""
    calls = [call(1, sampled=False), call(2, sampled=False)]
    traces.start_batch_span("batch", calls, SpanKind.CLIENT, {}).end()
    assert exported.get_finished_spans() == ()


class Faulty(SpanExporter):
    """An exporter whose next exports have these results."""

    def __init__(self, *results: SpanExportResult) -> None:
        self._results = [*results]

    def export(self, _: object) -> SpanExportResult:
        """Return the next result."""
        return self._results.pop(0)


GOOD, BAD = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


def test_failed_exports_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The problem is logged when it begins, and is over after two exports without a loss between them."""
    problem = tracing._ExportProblem()  # noqa: SLF001 - the SDK calls it as a handler of its log
    exporter = tracing._reporting(Faulty(GOOD, BAD, BAD, GOOD, GOOD, GOOD, GOOD, BAD), problem)  # noqa: SLF001
    for _ in range(5):
        exporter.export([])
    assert [record.getMessage() for record in caplog.records] == [
        "traces.export_failed", "traces.export_recovered"
    ]  # fmt: skip
    full = logging.makeLogRecord({"msg": "Queue full, dropping Span.", "levelno": logging.WARNING})
    for _ in range(2):
        problem.handle(full)
        exporter.export([])
    exporter.export([])
    assert [(each.getMessage(), vars(each).get("error")) for each in caplog.records][2:] == [
        ("traces.export_failed", "Queue full, dropping Span.")
    ]
