"""What operators and their machines ask for: `/healthz`, `/readyz`, `/metrics`. No key needed."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.core.errors import Unavailable
from service.edge.metrics import CONTENT_TYPE, Metrics
from service.store.database import Database
from service.store.migrations import SchemaError, check_schema


def routes(database: Database, metrics: Metrics) -> list[Route]:
    """Return the routes for operators."""

    async def healthz(_: Request) -> Response:
        """Alive: the process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        """Ready: the database answers and has the right schema."""
        try:
            await check_schema(database)
        except (SchemaError, Unavailable) as error:
            return JSONResponse({"status": "unavailable", "detail": str(error)}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def metrics_text(_: Request) -> Response:
        """Prometheus' text format, summed over the worker processes."""
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE.decode()})

    handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": metrics_text,
    }
    return [Route(path, handler) for path, handler in handlers.items()]
