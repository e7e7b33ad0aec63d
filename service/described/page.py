"""The page to read and to try the API: Swagger UI, from files that are shipped with the service."""

from pathlib import Path
from typing import Final

from service.described.kept import Kept

_FOLDER: Final = Path(__file__).with_name("static")

_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from anywhere else, nothing inline, and no page around it."""
_HEADERS: Final = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
)

_MEDIA_TYPES: Final = {
    "docs.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}


def page() -> Kept:
    """Return the page."""
    body = (_FOLDER / "docs.html").read_bytes()
    return Kept(body, "text/html; charset=utf-8", *_HEADERS)


def files() -> dict[str, Kept]:
    """Return the files that the page consists of, by name."""
    return {
        name: Kept((_FOLDER / name).read_bytes(), media_type)
        for name, media_type in _MEDIA_TYPES.items()
    }
