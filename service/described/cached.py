"""Responses that do not change while the service runs, and that clients may cache."""

import hashlib
from typing import Any, Final

import msgspec

from service.core.writes import Reply
from service.edge.calls.call import Call

JSON: Final = "application/json"
SCHEMA: Final = "application/schema+json"

_MAX_AGE: Final = (b"cache-control", b"public, max-age=300")


class CachedResponse:
    """One body with its media type, and 304 for If-None-Match with its tag (RFC 9110, 13.1.2)."""

    def __init__(self, body: bytes, media_type: str, *headers: tuple[bytes, bytes]) -> None:
        etag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()
        common = ((b"etag", etag), _MAX_AGE, (b"x-content-type-options", b"nosniff"), *headers)
        self._etag = etag
        self._whole = Reply(200, body, ((b"content-type", media_type.encode()), *common))
        self._unchanged = Reply(304, b"", common)

    def reply(self, call: Call) -> Reply:
        """Return the body; 304 if the caller has it."""
        known = call.headers.get(b"if-none-match", b"")
        tags = {tag.strip().removeprefix(b"W/") for tag in known.split(b",")}
        return self._unchanged if tags & {self._etag, b"*"} else self._whole


def cached_json(document: dict[str, Any], media_type: str = JSON) -> CachedResponse:
    """Return the response with a JSON document, indented for human readers."""
    return CachedResponse(msgspec.json.format(msgspec.json.encode(document)), media_type)
