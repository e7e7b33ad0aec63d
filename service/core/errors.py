"""The reasons for which a well-formed request is refused; the edge maps each to an HTTP status."""

from typing import ClassVar


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault of the program
    """A request that is not carried out; nothing of it is written."""

    code: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.index: int | None = None
        """The position of the refused change in a batch; None: the request is no batch."""


class NotFound(Refusal):
    """The document, entity or link does not exist in the caller's workspace."""

    code = "not_found"


class Conflict(Refusal):
    """The document's id is taken, or it has as many links as a document can have."""

    code = "conflict"


class PreconditionFailed(Refusal):
    """The resource is not in the state that If-Match or If-None-Match requires."""

    code = "precondition_failed"


class TooLarge(Refusal):
    """The document's metadata is larger than the limit."""

    code = "payload_too_large"


class IdempotencyMismatch(Refusal):
    """The Idempotency-Key was used before, with another request."""

    code = "idempotency_mismatch"


class Unavailable(Refusal):
    """The database is unreachable, or a lock was held for too long; the same call may succeed soon."""

    code = "unavailable"


class Busy(Unavailable):
    """The database answers, but other writes have held locks or connections for too long."""


class Overloaded(Busy):
    """More calls have come than the process can answer in time."""
