"""The service put together: its parts, its routes, its start and its end."""

import gc
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from functools import partial

from starlette.routing import BaseRoute

from service import logs, tracing
from service.core.ids import IdSource
from service.described.routes import routes as described_routes
from service.documents.routes import Documents
from service.documents.routes import entity_routes as entity_document_routes
from service.documents.routes import routes as document_routes
from service.edge.gate.cors import Cors
from service.edge.gate.gate import Gate
from service.edge.gate.key_uses import KeyUses
from service.edge.gate.keys import KeyRing
from service.edge.gate.measured import Levels
from service.edge.gate.metrics import Metrics
from service.edge.gate.rates import make_limiter
from service.entities.routes import Entities
from service.entities.routes import routes as entity_routes
from service.links.batch import Batch
from service.links.batch import routes as batch_routes
from service.links.routes import Links
from service.links.routes import routes as link_routes
from service.measures import Measures
from service.operations import routes as operator_routes
from service.settings import Settings, read_settings
from service.stopping import Stopping
from service.store.database import Database
from service.store.erasing.expiry import Sweeper
from service.store.postgres.url import read_url
from service.store.writing.execute import Executor
from service.store.writing.group import GroupWriter
from service.store.writing.replies import forget_expired_forever
from service.store.writing.transaction import Transactions
from service.supervision import Supervisor
from service.traced import Spans, TracedExecutor, TracedGate, TracedTransactions
from service.tracing import Tracing

TRACED_AS = "document-links-service"
"""The default of OTEL_SERVICE_NAME."""
GC_THRESHOLD = 20_000
"""Allocations before a generation-0 collection. Python's default, 700, runs one about every three
requests."""


def create_app(environ: Mapping[str, str] = os.environ) -> Gate:
    """Build the service from its environment; each worker process calls it once.

    Raises:
        SettingsError: a setting is missing or invalid.
    """
    settings = read_settings(environ)
    logs.set_up(settings.links_log_level)
    traces = tracing.start(environ, TRACED_AS)
    return build(settings, Stopping(settings.links_drain_seconds), traces)


def build(
    settings: Settings, stopping: Stopping | None = None, traces: Tracing | None = None
) -> Gate:
    """Put the parts together; no connection is opened before the lifespan begins.

    Args:
        settings: the service's settings.
        stopping: handles the process' signals during the lifespan; None: signals are not handled.
        traces: makes the spans, and is closed with the lifespan; None: traces are off.
    """
    signals = nullcontext() if stopping is None else stopping.on_signals()
    stopping = stopping or Stopping()
    by_key = settings.links_metrics_rate_limited_keys == "true"
    measures = Measures(rate_limited_by_key=by_key)
    pool_size = settings.links_pool_size
    database = Database(settings.database_url, pool_size=pool_size, measures=measures)
    supervisor = Supervisor()
    ids = IdSource()
    register_unknown = settings.links_entity_policy == "any"
    gate, transactions, executor = _gate_and_writing(settings, traces)
    writer = GroupWriter(
        transactions(database),
        executor(ids, measures, register_unknown=register_unknown),
        supervisor,
    )
    keys = KeyRing(database)
    metrics = Metrics(measures, partial(_levels, database, writer, keys))
    limiter = make_limiter(settings.links_rate_limit_storage, metrics.storage_unreachable)

    @asynccontextmanager
    async def lifespan(_: Gate) -> AsyncIterator[dict[str, Stopping]]:
        async with (
            metrics.shared(supervisor),
            signals,
            nullcontext() if traces is None else aclosing(traces),
            database,
            writer,
            aclosing(limiter),
            aclosing(keys),
            supervisor.running("refresh-keys", keys.refresh_forever),
            supervisor.running("record-key-uses", KeyUses(database, keys).record_forever),
            supervisor.running("forget-replies", partial(forget_expired_forever, database)),
            _expiry(settings, database, supervisor, metrics),
        ):
            _collect_less_garbage()
            yield {"stopping": stopping}

    routes = _api_routes(database, writer, ids)
    routes += operator_routes(database, metrics, stopping, supervisor)
    routes += described_routes(routes)
    return gate(
        routes,
        lifespan,
        ids=ids,
        keys=keys,
        limiter=limiter,
        default_rate=settings.links_rate_limit,
        metrics=metrics,
        measures=measures,
        cors=Cors(settings.cors_origins) if settings.cors_origins else None,
    )


def _gate_and_writing(
    settings: Settings, traces: Tracing | None
) -> tuple[Callable[..., Gate], Callable[[Database], Transactions], Callable[..., Executor]]:
    """Return what makes the parts that have a variant with spans."""
    if traces is None:
        return Gate, Transactions, Executor
    spans = Spans(traces, read_url(settings.database_url).parameters.get("dbname", ""))
    return (
        partial(TracedGate, spans),
        partial(TracedTransactions, spans),
        partial(TracedExecutor, spans),
    )


def _expiry(
    settings: Settings, database: Database, supervisor: Supervisor, metrics: Metrics
) -> AbstractAsyncContextManager[None]:
    """Return the task that removes expired rows; it does nothing if rows are kept for ever."""
    keep_days = settings.links_keep_deleted_days
    if keep_days == 0:
        return nullcontext()
    sweeper = Sweeper(
        database, keep_days, on_removed=metrics.expired, on_finished=metrics.expiry_finished
    )
    return supervisor.running("remove-expired", sweeper.run)


def _levels(database: Database, writer: GroupWriter, keys: KeyRing) -> Levels:
    return Levels(*writer.queued(), *database.pool_connections(), keys.soonest_end())


def _api_routes(database: Database, writer: GroupWriter, ids: IdSource) -> list[BaseRoute]:
    documents = Documents(database, writer, ids)
    return [
        *link_routes(Links(database, writer)),
        *document_routes(documents),
        *batch_routes(Batch(writer)),
        *entity_routes(Entities(writer)),
        *entity_document_routes(documents),
    ]


def _collect_less_garbage() -> None:
    gc.collect()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    gc.freeze()  # these objects live as long as the process: later collections skip them
