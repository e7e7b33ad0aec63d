"""The pages `/docs`, to read and try the API with Swagger UI, and `/docs/events`, with their files."""

from pathlib import Path
from typing import Final

from service.described.cached import CachedResponse

_FOLDER: Final = Path(__file__).with_name("static")

_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No resources of other origins, no inline scripts or styles, and no embedding in other pages."""
_HEADERS: Final = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
)

_MEDIA_TYPES: Final = {
    "events.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}


def page() -> CachedResponse:
    """Return the page."""
    body = (_FOLDER / "docs.html").read_bytes()
    return CachedResponse(body, "text/html; charset=utf-8", *_HEADERS)


def events(html: str) -> CachedResponse:
    """Return the page about the events."""
    return CachedResponse(html.encode(), "text/html; charset=utf-8", *_HEADERS)


def files() -> dict[str, CachedResponse]:
    """Return the files that the pages load, by name."""
    return {
        name: CachedResponse((_FOLDER / name).read_bytes(), media_type)
        for name, media_type in _MEDIA_TYPES.items()
    }
