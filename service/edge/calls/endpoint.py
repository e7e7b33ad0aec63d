"""The endpoints of a path, one for each method: scope, body, query, deadline and handler.

A handler gets a Call and returns a Reply. The request and response objects of a framework would take
more time than the work between them. The OpenAPI document is made from the same endpoints.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar, cast, get_type_hints

from msgspec import Struct
from starlette.types import Receive

from service.core.errors import Refusal, Unavailable
from service.core.ids import ENTITY_TYPES, valid_id
from service.core.writes import Reply
from service.edge.calls.body import BodyReader, QueryReader
from service.edge.calls.call import Call, invalid_field
from service.edge.calls.problems import EdgeError
from service.edge.shapes.messages import INVALID_ID

READ: Final = "read:documents"
WRITE: Final = "write:documents"

READ_DEADLINE_S: Final = 6.0
"""Time for a handler that reads. A caller is answered within 10 s, the look-up of its key included."""
WRITE_DEADLINE_S: Final = 11.0
"""Time for a handler that writes. A caller is answered within 15 s, the look-up of its key included."""
READ_TOO_LONG: Final = "the database did not answer in time: try again"
WRITE_TOO_LONG: Final = (
    "the database did not answer in time: whether it was written is not known yet"
)
CHECK_INTERVAL_S: Final = 0.25
"""Time between two checks of the deadlines: a call may run so much longer."""
CANCELLED: Final = math.inf
"""The deadline of a call that has been cancelled because its deadline had passed."""

Handler = Callable[..., Awaitable[Reply]]
T = TypeVar("T")


class Deadlines:
    """Cancels calls at their deadlines, so that each caller is answered in bounded time.

    One timer checks all calls four times a second, at a twentieth of the cost of a timer for each call.
    """

    def __init__(self) -> None:
        self._due: dict[asyncio.Task[Any], float] = {}
        """The deadline of each call, on the monotonic clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def within(self, seconds: float, work: Awaitable[T], detail: str) -> T:
        """Await the work in this task, and return its result.

        Raises:
            Unavailable: the work took longer and was cancelled; `detail` is for the caller.
        """
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._check)
        # Without the loop, this makes a system call before Python 3.12.
        task = cast("asyncio.Task[Any]", asyncio.current_task(self._loop))
        self._due[task] = time.monotonic() + seconds
        try:
            return await work
        except asyncio.CancelledError:
            if self._due[task] != CANCELLED:
                raise
            task.uncancel()
            raise Unavailable(detail) from TimeoutError(f"no answer within {seconds:g} s")
        finally:
            del self._due[task]

    def _check(self) -> None:
        """Cancel the tasks whose deadlines have passed; check again later if any task is left."""
        now = time.monotonic()
        for task in [task for task, due in self._due.items() if due < now]:
            self._due[task] = CANCELLED
            task.cancel()
        self._timer = None
        if self._due and self._loop is not None:
            self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._check)


class Endpoint:
    """One method of a path: its handler, and the checks before it.

    The handler gets the Call. If it has a parameter `body` or `query`, annotated with a struct type, it
    also gets the decoded JSON body or query string.

    Args:
        handler: returns the reply. Its docstring describes the call in the OpenAPI document.
        replies: the content of each success, by status: a struct (as JSON), a media type, or None.
        scope: the scope that the key needs; None: no key is needed, and there is no deadline.
        refusals: the domain errors that the handler raises.
        etag: whether a success carries the document's revision.
        too_long: the `detail` for the caller of a write that takes longer than its deadline.
        published_as: tag and operationId; None: the handler's package and name.
    """

    def __init__(  # noqa: PLR0913 - all but the first are given by name
        self,
        handler: Handler,
        *,
        replies: Mapping[int, type[Struct] | str | None],
        scope: str | None = None,
        refusals: tuple[type[Refusal], ...] = (),
        etag: bool = False,
        too_long: str = WRITE_TOO_LONG,
        published_as: tuple[str, str] | None = None,
    ) -> None:
        self.handler = handler
        self.replies = replies
        self.scope = scope
        self.refusals = refusals
        self.etag = etag
        self.published_as = published_as
        self.too_long = READ_TOO_LONG if scope == READ else too_long
        types = get_type_hints(handler)
        self.body = BodyReader(types["body"]) if "body" in types else None
        self.query = QueryReader(types["query"]) if "query" in types else None
        self._deadlines = Deadlines()

    async def answer(self, call: Call, receive: Receive) -> Reply:
        """Check scope, path, body and query, in the published order; then let the handler answer.

        Only what needs no database and decodes no body is done before the call has a place.
        """
        if self.scope is None:
            return await self.handler(call)
        if self.scope not in call.key.scopes:
            raise EdgeError("insufficient_permissions", f"the key lacks the scope {self.scope}")
        for name, value in call.params.items():
            if name in {"id", "entity_id"} and not valid_id(value):
                raise invalid_field(name, INVALID_ID)
            if name == "type" and value not in ENTITY_TYPES:
                raise invalid_field(name, f"has to be one of {', '.join(ENTITY_TYPES)}")
        if self.body is not None:
            await self.body.read(call, receive)
        seconds = READ_DEADLINE_S if self.scope == READ else WRITE_DEADLINE_S
        work = self._work(call, receive)
        return await self._deadlines.within(seconds, work, self.too_long)

    async def _work(self, call: Call, receive: Receive) -> Reply:
        """Decode body and query, and let the handler answer, all in a place of the process.

        The body has been read before, so that a slow caller occupies no place.
        """
        place = await call.places.take(receive)
        try:
            arguments: dict[str, Struct] = {}
            if self.body is not None:
                arguments["body"] = self.body.decode(call.body)
            if self.query is not None:
                arguments["query"] = self.query.decode(call.query)
            return await self.handler(call, **arguments)
        finally:
            call.places.give_back(place)


class Path:
    """The calls of one path, by method. HEAD is answered like GET; the gate cuts its body."""

    def __init__(self, **endpoints: Endpoint) -> None:
        self.endpoints = endpoints
        if "GET" in endpoints:
            self.endpoints["HEAD"] = endpoints["GET"]
        allowed = ", ".join(sorted({*self.endpoints, "OPTIONS"}))
        self._allow = (b"allow", allowed.encode())

    async def __call__(self, call: Call, receive: Receive) -> Reply:
        """Let the endpoint of the method answer.

        Raises:
            EdgeError: `method_not_allowed`.
        """
        endpoint = self.endpoints.get(call.method)
        if endpoint is not None:
            return await endpoint.answer(call, receive)
        if call.method == "OPTIONS":
            return Reply(204, b"", (self._allow,))
        detail = f"this path takes {self._allow[1].decode()}"
        raise EdgeError("method_not_allowed", detail, headers=(self._allow,))
