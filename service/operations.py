"""The paths for operators and monitoring, without a key: `/healthz`, `/readyz` and `/metrics`."""

import asyncio
from typing import Final, Literal

from msgspec import Struct
from starlette.routing import Route

from service.core.errors import Unavailable
from service.core.writes import Reply
from service.edge.calls.call import Call
from service.edge.calls.endpoint import Endpoint, Path
from service.edge.gate.metrics import CONTENT_TYPE, Metrics
from service.edge.shapes.messages import encode
from service.release import VERSION
from service.stopping import Stopping
from service.store.database import Database
from service.store.migrations.version import SchemaError, check_schema
from service.supervision import Supervisor

METRICS_HEADER: Final = (b"content-type", CONTENT_TYPE)

READY_DEADLINE_S: Final = 5.0
"""Time for the database to answer: less than the 10 s in which each read is answered."""


class Health(Struct, frozen=True, omit_defaults=True):
    """Whether the service can do its work, and why not; and the release that this process runs."""

    status: Literal["ok", "unavailable"]
    version: str
    detail: str = ""


def routes(
    database: Database, metrics: Metrics, stopping: Stopping, supervisor: Supervisor
) -> list[Route]:
    """Return the routes for operators."""

    async def healthz(_: Call) -> Reply:
        """Tell that the process is alive."""
        return Reply(200, encode(Health("ok", VERSION)))

    async def readyz(_: Call) -> Reply:
        """Tell whether the database answers and has the right schema, and every task does its work."""
        problem = await _problem(database, stopping, supervisor)
        if problem is not None:
            return Reply(503, encode(Health("unavailable", VERSION, problem)))
        return Reply(200, encode(Health("ok", VERSION)))

    async def metrics_text(_: Call) -> Reply:
        """Give Prometheus' text format, summed over the worker processes."""
        return Reply(200, metrics.render(), (METRICS_HEADER,))

    return [
        Route("/*", Path(), include_in_schema=False),  # the server makes it of `OPTIONS *`
        Route("/healthz", Path(GET=Endpoint(healthz, replies={200: Health}))),
        Route("/readyz", Path(GET=Endpoint(readyz, replies={200: Health, 503: Health}))),
        Route("/metrics", Path(GET=Endpoint(metrics_text, replies={200: "text/plain"}))),
    ]


async def _problem(database: Database, stopping: Stopping, supervisor: Supervisor) -> str | None:
    """Return the reason why the process is not ready; None: it is ready."""
    if stopping.begun:
        return "the process is stopping"
    if failing := supervisor.failing():
        return f"the process is broken: {', '.join(failing)} fails again and again; see its log"
    try:
        async with asyncio.timeout(READY_DEADLINE_S):
            await check_schema(database)
    except TimeoutError:
        return "the database does not answer"
    except (SchemaError, Unavailable) as error:
        return str(error)
    return None
