"""The address of the document, which needs no key and holds no secret."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from outbox_worker.page.observer import Observer

_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


def routes(observer: Observer) -> list[Route]:
    """Return the route of the document."""

    async def status(_: Request) -> Response:
        document = await observer.document()
        return Response(document, headers=_HEADERS, media_type="application/json")

    return [Route("/status.json", status)]
