"""Errors as callers see them: RFC 9457 `application/problem+json`, from one table of codes."""

from http import HTTPStatus
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service.core.errors import Refusal
from service.core.writes import Reply
from service.edge.shapes.messages import encode

CONTENT_TYPE: Final = (b"content-type", b"application/problem+json")
RETRY_AFTER: Final = b"1"
"""Seconds until the next try when the database is unreachable: few, because a try costs little."""


class Code(Struct, frozen=True):
    """Everything about one error code.

    Attributes:
        status: the status of the response.
        meaning: its description in the OpenAPI document.
        example: the `detail` of the example in the OpenAPI document.
        when: the calls that can be answered with the code. "if declared": the calls whose endpoint has
            a domain error with this code among its `refusals`.
        headers: further headers of the response. None: the error has the value.
        before_key: the error can occur before the key is known, so the response may lack the quota.
    """

    status: int
    meaning: str
    example: str
    when: Literal["any call", "with a key", "with a body", "a write", "if declared"]
    headers: dict[str, bytes | None] = {}
    before_key: bool = False


CODES: Final = {
    "validation_error": Code(
        400,
        "Something in the request is malformed; `errors` names each field.",
        "role: has to have at most 64 characters",
        "any call",
    ),
    "invalid_key": Code(
        401,
        "No key, or one that is unknown, revoked or expired.",
        "the key is unknown or revoked",
        "with a key",
        {"WWW-Authenticate": b'Bearer realm="document-links"'},
        before_key=True,
    ),
    "insufficient_permissions": Code(
        403,
        "The key lacks the scope that the call needs.",
        "the key lacks the scope write:documents",
        "with a key",
    ),
    "not_found": Code(
        404,
        "The document, entity, link or other resource does not exist in the key's workspace.",
        "document 'doc_01HY1' does not exist",
        "if declared",
    ),
    "method_not_allowed": Code(
        405,
        "The path takes other methods, as `Allow` says.",
        "this path takes OPTIONS, POST",
        "any call",
        {"Allow": None},
    ),
    "request_timeout": Code(
        408,
        "The body did not end in time.",
        "the body did not end in time",
        "with a body",
        {"Retry-After": RETRY_AFTER},
    ),
    "conflict": Code(
        409,
        "The id is taken, by a deleted document too; or the document has as many links as it can.",
        "document 'doc_01HY1' exists: choose another id",
        "if declared",
    ),
    "precondition_failed": Code(
        412,
        "The document is not in the state that If-Match or If-None-Match requires.",
        'the document is at revision "7" now: read it again',
        "if declared",
    ),
    "payload_too_large": Code(
        413, "The body is over 1 MiB.", "the body is larger than 1048576 bytes", "with a body"
    ),
    "unsupported_media_type": Code(
        415,
        "The body is not declared as JSON in UTF-8, or has a content coding.",
        "send the body as `Content-Type: application/json` in UTF-8",
        "with a body",
        {"Accept-Encoding": None},
    ),
    "idempotency_mismatch": Code(
        422,
        "The Idempotency-Key was used before, with another request.",
        "the Idempotency-Key was used before, with another request",
        "a write",
    ),
    "rate_limited": Code(
        429,
        "The key's calls are used up for now.",
        "the limit of 1000 calls in 60 s is used up: wait 42 s",
        "with a key",
        {"Retry-After": None},
    ),
    "headers_too_large": Code(
        431,
        "Request line and headers are over 64 KiB.",
        "request line and headers are larger than 65536 bytes",
        "any call",
        before_key=True,
    ),
    "internal": Code(
        500,
        "A fault of the service; it has been logged.",
        "something went wrong here; it has been logged",
        "any call",
        before_key=True,
    ),
    "unavailable": Code(
        503,
        "The database is unreachable, a lock was held for too long, or there are too many calls: try again.",
        "the database is not available",
        "with a key",
        {"Retry-After": RETRY_AFTER},
        before_key=True,
    ),
}
"""All error codes, in the order of their statuses."""

_PUBLISHED_TITLES: Final = {413: "Request Entity Too Large", 422: "Unprocessable Entity"}
"""Python 3.13 renamed these after RFC 9110. The published titles are the same under every Python."""


def title_of(status: int) -> str:
    """Return the title of a problem with this status."""
    return _PUBLISHED_TITLES.get(status) or HTTPStatus(status).phrase


_CODE: Final = "The kind of error, to branch on. The description of each response names its code."


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
    code: Annotated[str, Meta(description=_CODE)]
    request_id: str
    errors: list[FieldError] = []
    index: int | UnsetType = UNSET
    """The index of the operation that failed in an atomic batch."""


class EdgeError(Exception):
    """A request that is refused before the domain sees it, for its key, its form or its size."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors or []
        self.headers = headers
        self.index: int | None = None
        """The index of the malformed operation in an atomic batch."""


def unknown_path(path: str, *headers: tuple[bytes, bytes]) -> EdgeError:
    """Return the error for a path that no route has."""
    detail = f"there is no {path}; see /openapi.json for what there is"
    return EdgeError("not_found", detail, headers=headers)


def problem(error: Exception, request_id: str) -> Problem:
    """Return the problem that describes an error; an unexpected exception becomes `internal`."""
    if not isinstance(error, Refusal | EdgeError):
        error = EdgeError("internal", CODES["internal"].example)
    status = CODES[error.code].status
    return Problem(
        f"urn:document-links:problem:{error.code}",
        title_of(status),
        status,
        error.detail,
        error.code,
        request_id,
        error.errors if isinstance(error, EdgeError) else [],
        UNSET if error.index is None else error.index,
    )


def problem_reply(error: Exception, request_id: str) -> Reply:
    """Return the response to a call that failed."""
    described = problem(error, request_id)
    known = CODES[described.code].headers.items()
    fixed = tuple((name.lower().encode(), value) for name, value in known if value is not None)
    own = error.headers if isinstance(error, EdgeError) else ()
    return Reply(described.status, encode(described), (CONTENT_TYPE, *fixed, *own))
