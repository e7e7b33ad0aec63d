"""One call: who makes it, under which request id, and what its headers ask for."""

import hashlib
import re
from collections.abc import Mapping, Sequence

from service.core.changes import Caller, Change
from service.core.events import Cause
from service.core.ids import request_id as new_request_id
from service.core.preconditions import Preconditions
from service.core.requests import Idempotency, Reply, Request, Respond
from service.edge.calls.conditions import preconditions_of
from service.edge.calls.headers import traceparent_of
from service.edge.calls.problems import EdgeError, FieldError
from service.edge.gate.deadlines import Deadlines
from service.store.keys import Key

_valid_request_id = re.compile(rb"[A-Za-z0-9_.\-]{1,128}\Z").match
_valid_idempotency_key = re.compile(rb"[\x21-\x7e]{1,255}\Z").match


class Call:
    """What the edge knows of a call; handlers get it first."""

    __slots__ = (
        "body",
        "deadlines",
        "headers",
        "key",
        "method",
        "params",
        "path",
        "query",
        "reply",
        "request_id",
        "response_headers",
    )

    key: Key
    deadlines: Deadlines
    params: dict[str, str]
    reply: Reply | None
    """The endpoint's; None until it has answered."""
    response_headers: list[tuple[bytes, bytes]]
    """What every response to the call carries, as far as is known: its id, then its key's quota."""

    def __init__(self, method: str, path: str, query: bytes, headers: dict[bytes, bytes]) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = b""
        self.reply = None
        self.request_id = request_id_of(headers)

    @property
    def caller(self) -> Caller:
        """On whose behalf a write is made, for its events."""
        traceparent = self.headers.get(b"traceparent")
        return Caller(
            self.key.workspace_id,
            self.key.id,
            self.request_id,
            None if traceparent is None else traceparent_of(traceparent),
        )

    @property
    def idempotency(self) -> Idempotency | None:
        """What the Idempotency-Key makes of this call.

        Raises:
            EdgeError: the key is not 1 to 255 visible characters.
        """
        key = self.headers.get(b"idempotency-key")
        if key is None:
            return None
        if len(key) > 1 and key.startswith(b'"') and key.endswith(b'"'):
            key = key[1:-1]
        if not _valid_idempotency_key(key):
            raise invalid_field("Idempotency-Key", "has to be 1 to 255 visible ASCII characters")
        which = b"\0".join((self.method.encode(), self.path.encode(), key))
        says = self.query + b"\0" + self.body
        return Idempotency(hashlib.sha256(which).digest(), hashlib.sha256(says).digest())

    def request(self, cause: Cause, changes: Sequence[Change], respond: Respond) -> Request:
        """Make the write request of this call.

        Raises:
            EdgeError: a header that it depends on is malformed.
        """
        return Request(
            caller=self.caller,
            cause=cause,
            changes=changes,
            respond=respond,
            preconditions=self.preconditions,
            idempotency=self.idempotency,
        )

    @property
    def preconditions(self) -> Preconditions | None:
        """The state of the document that If-Match and If-None-Match require; None: any.

        Raises:
            EdgeError: one of them is malformed.
        """
        return preconditions_of(self.headers)


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the caller's own id of its request if it is a valid one, or else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _valid_request_id(given) else new_request_id()


def invalid_field(field: str, message: str) -> EdgeError:
    """Return the error for one wrong field."""
    return EdgeError("validation_error", f"{field}: {message}", errors=[FieldError(field, message)])
