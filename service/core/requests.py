"""A caller's write, as the write path takes it: changes, conditions, and how to answer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

from service.core.changes import Caller, Change, Outcome
from service.core.errors import Refusal
from service.core.events import Cause


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


Respond = Callable[[list[Outcome | Refusal]], Reply]


class Request(Struct, frozen=True, kw_only=True):
    """A list of changes to links of documents that exist: the kind that is written in groups.

    `respond` is called inside the transaction, since its reply may have to be stored in it; it must
    not do I/O. `revisions` are those of the first change's document that If-Match accepts; None: any.
    """

    caller: Caller
    cause: Cause
    changes: Sequence[Change]
    respond: Respond
    atomic: bool = True
    revisions: frozenset[int] | None = None
    idempotency: Idempotency | None = None
