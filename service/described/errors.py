"""The errors that a call can answer with: from its endpoint's parts, and the table of problems."""

from typing import Final

from service.core.errors import NotFound
from service.described.examples import problem_example
from service.described.headers import OF_A_KEY, references
from service.described.schemas import Schema
from service.edge.calls.endpoint import WRITE, Endpoint
from service.edge.calls.problems import STATUS_OF, title_of
from service.edge.calls.public import Page

WITHOUT_KEY: Final = "_without_key"
"""Ends the names of problems at paths that need no key, whose responses have no quota."""

_MEANING: Final = {
    "validation_error": "Something in the request is malformed; `errors` names each field.",
    "invalid_key": "No key, or one that is unknown, revoked or expired.",
    "insufficient_permissions": "The key lacks the scope that the call needs.",
    "not_found": "What the call is about does not exist in the key's workspace.",
    "method_not_allowed": "The path takes other methods, as `Allow` says.",
    "request_timeout": "The body did not end in time.",
    "conflict": "The id is taken, by a deleted document too; or the document has as many links as it can.",
    "precondition_failed": "The document is not in the state that If-Match or If-None-Match requires.",
    "payload_too_large": "The body is over 1 MiB.",
    "unsupported_media_type": "The body is not declared as JSON in UTF-8, or has a content coding.",
    "idempotency_mismatch": "The Idempotency-Key was used before, with another request.",
    "rate_limited": "The key's calls are used up for now.",
    "headers_too_large": "Request line and headers are over 64 KiB.",
    "internal": "A fault of the service; it has been logged.",
    "unavailable": "The database is away, or a lock was held for long: try again.",
}

_OWN_HEADERS: Final = {
    "invalid_key": ("WWW-Authenticate",),
    "method_not_allowed": ("Allow",),
    "request_timeout": ("Retry-After",),
    "unsupported_media_type": ("Accept-Encoding",),
    "rate_limited": ("Retry-After",),
    "unavailable": ("Retry-After",),
}
_BEFORE_THE_QUOTA: Final = {"invalid_key", "headers_too_large", "internal", "unavailable"}
"""They may come before the key is known, so its quota may not be told."""

_EVERY_CALL: Final = {
    "validation_error",
    "invalid_key",
    "insufficient_permissions",
    "method_not_allowed",
    "rate_limited",
    "headers_too_large",
    "internal",
    "unavailable",
}
_WITH_BODY: Final = {"payload_too_large", "unsupported_media_type", "request_timeout"}
_EVERY_WRITE: Final = {"idempotency_mismatch"}
_PUBLIC: Final = ("validation_error", "method_not_allowed", "headers_too_large", "internal")


def codes_of(endpoint: Endpoint) -> list[str]:
    """Return the codes of the problems that a call can answer with, by status."""
    codes = _EVERY_CALL | {refusal.code for refusal in endpoint.refusals}
    if endpoint.body is not None:
        codes |= _WITH_BODY
    if endpoint.scope == WRITE:
        codes |= _EVERY_WRITE
    return sorted(codes, key=STATUS_OF.__getitem__)


def public_codes_of(page: Page) -> list[str]:
    """Return those of a page that needs no key."""
    codes = {*_PUBLIC} | {refusal.code for refusal in page.refusals}
    return sorted(codes, key=STATUS_OF.__getitem__)


def problem_references(codes: list[str], suffix: str = "") -> Schema:
    """Return the responses of a call for these codes."""
    return {
        str(STATUS_OF[code]): {"$ref": f"#/components/responses/{code}{suffix}"} for code in codes
    }


def problem_responses() -> Schema:
    """Return all responses that are problems, by name."""
    keyed = {code: _response(code, keyed=True) for code in STATUS_OF}
    public = [*_PUBLIC, NotFound.code]
    return keyed | {f"{code}{WITHOUT_KEY}": _response(code, keyed=False) for code in public}


def _response(code: str, *, keyed: bool) -> Schema:
    status = STATUS_OF[code]
    quota = OF_A_KEY if keyed and code not in _BEFORE_THE_QUOTA else ()
    says = {"properties": {"status": {"const": status}, "code": {"const": code}}}
    return {
        "description": f"{title_of(status)}: `{code}`. {_MEANING[code]}",
        "headers": references("X-Request-ID", *quota, *_OWN_HEADERS.get(code, ())),
        "content": {
            "application/problem+json": {
                "schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}, says]},
                "examples": {code: {"value": problem_example(code)}},
            }
        },
    }
