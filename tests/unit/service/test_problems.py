"""Problems: code, status and the fields of RFC 9457, without details of internal errors."""

import msgspec
import pytest

from service.core import errors
from service.edge.calls import problems
from service.edge.calls.problems import EdgeError, FieldError, problem, problem_reply
from service.edge.shapes.messages import encode

CONTRACT = {
    "validation_error": 400,
    "invalid_key": 401,
    "insufficient_permissions": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_mismatch": 422,
    "rate_limited": 429,
    "internal": 500,
    "unavailable": 503,
}


@pytest.mark.parametrize(("code", "status"), CONTRACT.items())
def test_codes_have_their_statuses(code: str, status: int) -> None:
    """Each code has its status and title."""
    shown = problem(EdgeError(code, "detail"), "req_1")
    assert (shown.code, shown.status, shown.detail) == (code, status, "detail")
    assert shown.title


@pytest.mark.parametrize("refusal", errors.Refusal.__subclasses__())
def test_refusals_of_the_domain_have_a_status(refusal: type[errors.Refusal]) -> None:
    """Each error of the domain is in the table."""
    assert problem(refusal("why"), "req_1").status == problems.CODES[refusal.code].status


def test_fields_of_a_problem() -> None:
    """A validation error lists its fields, and an empty member is left out."""
    error = EdgeError("validation_error", "why", errors=[FieldError("role", "too long")])
    assert msgspec.json.decode(encode(problem(error, "req_1"))) == {
        "type": "urn:document-links:problem:validation_error",
        "title": "Bad Request",
        "status": 400,
        "detail": "why",
        "code": "validation_error",
        "request_id": "req_1",
        "errors": [{"field": "role", "message": "too long"}],
    }
    bare = msgspec.json.decode(encode(problem(errors.NotFound("why"), "req_1")))
    assert set(bare) == {"type", "title", "status", "detail", "code", "request_id"}


def test_faults_of_the_program_give_nothing_away() -> None:
    """An unexpected error is `internal`, without its text."""
    shown = encode(problem(ValueError("secret"), "req_1"))
    assert b"internal" in shown
    assert b"secret" not in shown


def test_index_of_a_refused_change_is_shown() -> None:
    """The first failed change of a list is named by its index, 0 included."""
    refusal = errors.NotFound("why")
    refusal.index = 0
    assert msgspec.json.decode(encode(problem(refusal, "req_1")))["index"] == 0


def test_unavailable_says_when_to_come_back() -> None:
    """The answer to an unreachable database has Retry-After; that to a missing document has none."""
    type_only = problem_reply(errors.NotFound("no"), "req_1").headers
    assert type_only == ((b"content-type", b"application/problem+json"),)
    unreachable = problem_reply(errors.Unavailable("unreachable"), "req_1").headers
    assert unreachable == (*type_only, (b"retry-after", b"1"))
