"""Errors as callers see them: RFC 9457 `application/problem+json`, from one table."""

from http import HTTPStatus
from typing import Final

import msgspec
from msgspec import Struct

from service.core.errors import Refusal

CONTENT_TYPE: Final = b"application/problem+json"
RETRY_AFTER_S: Final = 1
"""Seconds to wait when the database is unreachable: few, because an early retry costs little."""

STATUS_OF: Final = {
    "validation_error": 400,
    "invalid_key": 401,
    "insufficient_permissions": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_mismatch": 422,
    "rate_limited": 429,
    "headers_too_large": 431,
    "internal": 500,
    "unavailable": 503,
}
"""Every code that a caller can meet, and its status."""

_PUBLISHED_TITLES: Final = {413: "Request Entity Too Large", 422: "Unprocessable Entity"}
"""Python 3.13 renamed them after RFC 9110; a title stays what it was, under every Python."""


def title_of(status: int) -> str:
    """Return the title of a problem with this status."""
    return _PUBLISHED_TITLES.get(status) or HTTPStatus(status).phrase


class FieldError(Struct, frozen=True):
    """What is wrong with one field of the request."""

    field: str
    message: str


class Problem(Struct, frozen=True, omit_defaults=True):
    """An error (RFC 9457), with a code to branch on and the request's id to quote."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] = []
    index: int | None = None
    """Of the operation that failed, in an atomic batch."""


class EdgeError(Exception):
    """A request that never reached the domain: refused for its key, its form, its size."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors or []
        self.headers = headers or []
        self.index: int | None = None
        """Of the operation that is malformed, in an atomic batch."""


def problem(error: Exception, request_id: str) -> Problem:
    """Describe an error to the caller; what is not meant for callers becomes `internal`."""
    if not isinstance(error, Refusal | EdgeError):
        return _problem("internal", "something went wrong here; it has been logged", request_id)
    errors = error.errors if isinstance(error, EdgeError) else []
    return _problem(error.code, error.detail, request_id, errors, error.index)


def _problem(
    code: str,
    detail: str,
    request_id: str,
    errors: list[FieldError] | None = None,
    index: int | None = None,
) -> Problem:
    status = HTTPStatus(STATUS_OF[code])
    return Problem(
        f"urn:document-links:problem:{code}",
        title_of(status),
        status,
        detail,
        code,
        request_id,
        errors or [],
        index,
    )


def headers_of(error: Exception) -> list[tuple[bytes, bytes]]:
    """Return the headers that an error's response carries besides everybody's."""
    headers = list(error.headers) if isinstance(error, EdgeError) else []
    if isinstance(error, Refusal) and error.code == "unavailable":
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    return headers


encode: Final = msgspec.json.Encoder().encode
