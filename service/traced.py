"""The spans of the service, made by classes in place of the gate, the transactions and the executor.

`app.build` uses these classes if traces are on. The classes that they extend know nothing of spans, so a
call costs nothing more while traces are off.

* A server span for each call (`TracedGate`), a child of the caller's span. It takes the place of the
  caller's `traceparent` in the request's headers, so that the events of the call name it: a subscriber's
  span becomes its child.
* A span for each transaction that has writes (`TracedTransactions`, from BEGIN to the end of COMMIT), linked
  to the call of each of its writes; each of these server spans is linked to it (`TracedExecutor`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.types import Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.edge.calls.call import Call, headers_of
from service.edge.gate.gate import Gate
from service.store.database import Database
from service.store.writing.execute import Executor, Member
from service.store.writing.transaction import Transactions
from service.store.writing.witness import Witness
from service.tracing import Tracing, traceparent_of

if TYPE_CHECKING:
    from service.store.database import Connection

METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
)
"""The methods that the semantic conventions know; each other one is `_OTHER`."""
UNTRACED: Final = frozenset(("/healthz", "/readyz", "/metrics"))
"""Probes and scrapes, which come every few seconds and have no caller who looks for them."""
SERVER_ERROR: Final = 500
TRACE_HEADERS: Final = frozenset((b"traceparent", b"tracestate"))


class Spans:
    """The spans of this process; `database` is the name of the database."""

    def __init__(self, tracing: Tracing, database: str) -> None:
        self.tracing = tracing
        self._open_calls: dict[str, Span] = {}
        """The span of each call that is being answered, by the `traceparent` of its events."""
        self._of_transactions = {
            "db.system.name": "postgresql",
            "db.namespace": database,
            "db.operation.name": "TRANSACTION",
        }
        self._transaction_name = f"TRANSACTION {database}"

    def start_call(self, scope: Scope) -> tuple[str, Span]:
        """Start the span of a call, and put its context into the request's headers."""
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        carrier = headers_of(headers)
        attributes = {
            "http.request.method": method,
            "url.scheme": scope["scheme"],
            "url.path": scope["raw_path"].decode("latin-1"),
        }
        if b"user-agent" in carrier:
            attributes["user_agent.original"] = carrier[b"user-agent"].decode("latin-1")
        if method == "_OTHER":
            attributes["http.request.method_original"] = scope["method"]
        parent = self.tracing.propagator.extract(carrier, Context(), _HEADERS)
        name = "HTTP" if method == "_OTHER" else method
        span = self.tracing.tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        context = span.get_span_context()
        traceparent = traceparent_of(context)
        scope["headers"] = [
            *(header for header in headers if header[0] not in TRACE_HEADERS),
            (b"traceparent", traceparent.encode()),
        ]
        if context.trace_state:
            scope["headers"].append((b"tracestate", context.trace_state.to_header().encode()))
        if span.is_recording():
            self._open_calls[traceparent] = span
            bind_contextvars(trace_id=traceparent[3:35])  # for every log line of the request
        return traceparent, span

    def end_call(self, traceparent: str, span: Span, call: Call | None, status: int) -> None:
        """End the span of a call; `status` is 0 if the caller was gone before it was answered."""
        self._open_calls.pop(traceparent, None)
        if call is not None and call.route != "none":
            span.update_name(f"{call.method if call.method in METHODS else 'HTTP'} {call.route}")
            span.set_attribute("http.route", call.route)
        if call is not None:
            span.set_attribute("links.request.id", call.request_id)
        if (key := getattr(call, "key", None)) is not None:
            span.set_attribute("links.key.id", key.id)
            span.set_attribute("links.workspace.id", key.workspace_id)
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= SERVER_ERROR:
            span.set_attribute("error.type", str(status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def start_transaction(self, members: Sequence[Member], started_ns: int) -> Span:
        """Start the span of a transaction, and link it and the spans of its members' calls."""
        traceparents = [member.write.caller.traceparent for member in members]
        attributes: dict[str, str | int] = {**self._of_transactions}
        if len(members) > 1:
            attributes["db.operation.batch.size"] = len(members)
        span = self.tracing.start_batch_span(
            self._transaction_name, traceparents, SpanKind.CLIENT, attributes, started_ns
        )
        if span.is_recording():
            context = span.get_span_context()
            for traceparent in traceparents:
                if (call := self._open_calls.get(traceparent or "")) is not None:
                    call.add_link(context)
        return span


class _HeaderGetter(Getter[Mapping[bytes, bytes]]):
    """Reads the headers of a request for OpenTelemetry's propagators."""

    def get(self, carrier: Mapping[bytes, bytes], key: str) -> list[str] | None:
        value = carrier.get(key.lower().encode())
        return None if value is None else [value.decode("latin-1")]

    def keys(self, carrier: Mapping[bytes, bytes]) -> list[str]:
        return [name.decode("latin-1") for name in carrier]


_HEADERS: Final = _HeaderGetter()


class TracedGate(Gate):
    """A gate that makes a span for each call."""

    def __init__(self, spans: Spans, *arguments: Any, **parts: Any) -> None:  # noqa: ANN401 - Gate's own
        super().__init__(*arguments, **parts)
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within its span."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await super().__call__(scope, receive, send)
            return
        traceparent, span = self._spans.start_call(scope)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await super().__call__(scope, receive, sending)
        finally:
            self._spans.end_call(traceparent, span, scope.get("call"), status)


class _Transaction:
    """A transaction that is being run. Its span is made once its members are known."""

    __slots__ = ("span", "started_ns")

    def __init__(self) -> None:
        self.started_ns = time.time_ns()
        self.span: Span | None = None


_transaction: ContextVar[_Transaction] = ContextVar("transaction")
"""The transaction that this task runs."""


class TracedTransactions(Transactions):
    """Runs transactions, and ends the span of each that has one."""

    def __init__(self, spans: Spans, database: Database) -> None:
        super().__init__(database)
        self._spans = spans

    async def run_statement(self, *arguments: Any) -> Any:  # noqa: ANN401 - those of Transactions.run_statement
        """Run a statement that is a transaction of its own, within its span."""
        span = self._spans.start_transaction(arguments[-1], time.time_ns())
        try:
            return await super().run_statement(*arguments)
        except BaseException as error:
            _note_error(span, error)
            raise
        finally:
            span.end()

    async def run(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - those of Transactions.run
        """Run a transaction within its span."""
        transaction = _Transaction()
        token = _transaction.set(transaction)
        try:
            await super().run(*arguments, **options)
        except BaseException as error:
            if transaction.span is not None:
                _note_error(transaction.span, error)
            raise
        finally:
            _transaction.reset(token)
            if transaction.span is not None:
                transaction.span.end()


class TracedExecutor(Executor):
    """Begins the span of a transaction when its members are known."""

    def __init__(self, spans: Spans, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Executor's own
        super().__init__(*arguments, **options)
        self._spans = spans

    async def execute(
        self,
        connection: "Connection",
        members: Sequence[Member],
        *,
        wait: bool,
        on_read: Callable[[], None] = lambda: None,
    ) -> Witness | None:
        """Execute the writes; the span's events say when their rows were read, and when they were saved."""
        transaction = _transaction.get()
        span = self._spans.start_transaction(members, transaction.started_ns)
        transaction.span = span

        def note_read() -> None:
            span.add_event("read")
            on_read()

        witness = await super().execute(connection, members, wait=wait, on_read=note_read)
        span.add_event("saved")
        return witness


def _note_error(span: Span, error: BaseException) -> None:
    """Mark a span as failed. The texts of errors may quote rows, so they stay out of it."""
    cause = error.__cause__ or error
    sqlstate: str | None = getattr(cause, "sqlstate", None)
    if sqlstate is not None:
        span.set_attribute("db.response.status_code", sqlstate)
    span.set_attribute("error.type", sqlstate or type(cause).__name__)
    span.set_status(Status(StatusCode.ERROR))
