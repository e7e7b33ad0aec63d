"""The whole service at a glance: its parts, its routes, its start and its end."""

import gc
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial

from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Lifespan

from service import logs
from service.core.ids import IdSource
from service.described.routes import routes as described_routes
from service.documents.routes import Documents
from service.documents.routes import entity_routes as entity_document_routes
from service.documents.routes import routes as document_routes
from service.edge.gate.cors import Cors
from service.edge.gate.gate import Gate
from service.edge.gate.keys import KeyRing
from service.edge.gate.metrics import Metrics
from service.edge.gate.rates import make_limiter
from service.entities.routes import Entities
from service.entities.routes import routes as entity_routes
from service.links.batch import Batch
from service.links.batch import routes as batch_routes
from service.links.routes import Links
from service.links.routes import routes as link_routes
from service.operations import routes as operator_routes
from service.settings import Settings, read_settings
from service.stopping import Stopping
from service.store.database import Database
from service.store.writing.group import GroupWriter
from service.store.writing.replies import forget_expired_forever
from service.supervision import Supervisor

GC_THRESHOLD = 20_000
"""Allocations before a generation-0 collection. Python's default, 700, runs one about every three
requests."""


def create_app(environ: Mapping[str, str] = os.environ) -> Starlette:
    """Build the service from its environment; each worker process calls it once.

    Raises:
        SettingsError: a setting is missing or invalid.
    """
    settings = read_settings(environ)
    logs.set_up(settings.links_log_level)
    return build(settings, Stopping(settings.links_drain_seconds))


def build(settings: Settings, stopping: Stopping | None = None) -> Starlette:
    """Put the parts together; no connection is opened before the lifespan begins.

    Args:
        settings: the service's settings.
        stopping: handles the process' signals during the lifespan; None: signals are not handled.
    """
    handles_signals, stopping = stopping is not None, stopping or Stopping()
    database = Database(settings.database_url, pool_size=settings.links_pool_size)
    register_unknown = settings.links_entity_policy == "any"
    ids = IdSource()
    supervisor = Supervisor()
    writer = GroupWriter(database, supervisor, register_unknown=register_unknown, ids=ids)
    documents = Documents(database, writer, ids)
    keys = KeyRing(database)
    metrics = Metrics()
    limiter = make_limiter(settings.links_rate_limit_storage, metrics.storage_away)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Stopping]]:
        signals = stopping.on_signals() if handles_signals else nullcontext()
        async with signals, database, writer:
            background = [
                supervisor.start("refresh-keys", keys.refresh_forever),
                supervisor.start("forget-replies", partial(forget_expired_forever, database)),
            ]
            _collect_less_garbage()
            yield {"stopping": stopping}
            for task in background:
                await task.stop()
            await keys.close()
            await limiter.close()

    routes: list[BaseRoute] = [
        *link_routes(Links(database, writer)),
        *document_routes(documents),
        *batch_routes(Batch(writer)),
        *entity_routes(Entities(writer)),
        *entity_document_routes(documents),
        *operator_routes(database, metrics, stopping, supervisor),
    ]
    routes += described_routes(routes)
    gate = partial(
        Gate,
        ids=ids,
        keys=keys,
        limiter=limiter,
        default_rate=settings.links_rate_limit,
        metrics=metrics,
        cors=Cors(settings.cors_origins) if settings.cors_origins else None,
    )
    return LinkService(routes, lifespan, gate)


def _collect_less_garbage() -> None:
    gc.collect()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    gc.freeze()  # these objects live as long as the process: later collections skip them


class LinkService(Starlette):
    """Starlette with the gate, which calls the router, in place of its middlewares."""

    def __init__(
        self,
        routes: list[BaseRoute],
        lifespan: Lifespan["LinkService"],
        gate: Callable[[ASGIApp, list[BaseRoute]], ASGIApp],
    ) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self._gate = gate

    def build_middleware_stack(self) -> ASGIApp:
        """Return the ASGI application that Starlette calls for each request."""
        return self._gate(self.router, self.routes)
