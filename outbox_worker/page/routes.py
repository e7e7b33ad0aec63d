"""The addresses of the page, its files and its document. They need no key and hold no secret."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from outbox_worker.page.observer import Observer

_FOLDER: Final = Path(__file__).with_name("static")
_FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No resources of other origins, no inline scripts or styles, and no embedding in other pages."""
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes(observer: Observer) -> list[Route]:
    """Return a route for each file, and one for the document."""

    async def status(_: Request) -> Response:
        headers = {**_HEADERS, "cache-control": "no-store"}
        return Response(await observer.document(), headers=headers, media_type="application/json")

    return [Route("/status.json", status), *(_route(path, *_FILES[path]) for path in _FILES)]


def _route(path: str, name: str, media_type: str) -> Route:
    response = Response(
        (_FOLDER / name).read_bytes(),
        headers={**_HEADERS, "cache-control": "no-cache"},  # another release has other files
        media_type=media_type,
    )

    async def file(_: Request) -> Response:
        return response

    return Route(path, file)
