"""A caller's write, as the write path takes it: changes, conditions, and how to answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from service.core.changes import Caller, Change, DocumentKey, DocumentState, Outcome
from service.core.errors import Refusal
from service.core.events import Cause
from service.core.preconditions import Preconditions


class Reply(NamedTuple):
    """What the caller gets; status and body are what an Idempotency-Key stores."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    replayed: bool = False


class Idempotency(NamedTuple):
    """Two SHA-256: of which call this is (method, path, key), and of what it says (query, body)."""

    scope: bytes
    fingerprint: bytes


Documents = Mapping[DocumentKey, DocumentState]
Respond = Callable[[list[Outcome | Refusal], Documents], Reply]
"""From the outcomes, and the documents as they are after them, to the reply."""


class Request(Struct, frozen=True, kw_only=True):
    """A list of changes to links of documents that exist: the kind that is written in groups.

    `respond` is called inside the transaction, since its reply may have to be stored in it; it must
    not do I/O. The preconditions are on the first change's document.
    """

    caller: Caller
    cause: Cause
    changes: Sequence[Change]
    respond: Respond
    atomic: bool = True
    preconditions: Preconditions | None = None
    idempotency: Idempotency | None = None
