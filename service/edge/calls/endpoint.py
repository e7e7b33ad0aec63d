"""What stands behind a route: a path's methods, each with its scope, its body and its handler.

Bare ASGI, since a request object and a response object would cost more than the work they wrap.
The same objects describe the call in the OpenAPI document.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from msgspec import Struct
from starlette.types import Receive, Scope, Send

from service.core.errors import Refusal
from service.core.requests import Reply
from service.core.resources import is_valid_id
from service.edge.calls.body import read_json
from service.edge.calls.call import Call, invalid_field
from service.edge.calls.problems import EdgeError
from service.edge.calls.validation import BodyReader, QueryReader

READ: Final = "read:documents"
WRITE: Final = "write:documents"

READ_DEADLINE_S: Final = 6.0
"""For a handler: with the look-up of the key, and what is ended late, less than 10 s."""
WRITE_DEADLINE_S: Final = 11.0
"""For a handler: likewise less than 15 s."""
READ_TOO_LONG: Final = "the database did not answer in time: try again"
WRITE_TOO_LONG: Final = (
    "the database did not answer in time: whether it was written is not known yet"
)

Handler = Callable[..., Awaitable[Reply]]


class Endpoint:
    """One call of the API: the handler gets the Call, then the body and the query if it has them.

    `replies` says what the body of each success looks like (None: there is none), `refusals` what
    the domain may answer instead, `etag` whether a success carries the document's revision,
    `too_long` what the caller of a write is told that takes longer than its deadline.
    """

    def __init__(  # noqa: PLR0913 - what there is to say of a call, each by its name
        self,
        handler: Handler,
        *,
        scope: str,
        replies: Mapping[int, type[Struct] | None],
        body: type[Struct] | None = None,
        query: type[Struct] | None = None,
        refusals: tuple[type[Refusal], ...] = (),
        etag: bool = False,
        too_long: str = WRITE_TOO_LONG,
    ) -> None:
        self.handler = handler
        self.scope = scope
        self.replies = replies
        self.refusals = refusals
        self.etag = etag
        self.too_long = too_long
        self.body = None if body is None else BodyReader(body)
        self.query = None if query is None else QueryReader(query)

    async def answer(self, call: Call, receive: Receive) -> Reply:
        """Check scope, path and body, in the order of the contract; then let the handler answer."""
        if self.scope not in call.key.scopes:
            raise EdgeError("insufficient_permissions", f"the key lacks the scope {self.scope}")
        for name, value in call.params.items():
            if name in {"id", "entity_id"} and not is_valid_id(value):
                raise invalid_field(
                    name, "has to be 1 to 128 of A-Z a-z 0-9 _ - . and begin with a letter or digit"
                )
        arguments = []
        if self.body is not None:
            call.body = await read_json(call.headers, receive)
            arguments.append(self.body.decode(call.body))
        if self.query is not None:
            arguments.append(self.query.decode(call.query))
        work = self.handler(call, *arguments)
        if self.scope == READ:
            return await call.deadlines.within(READ_DEADLINE_S, work, READ_TOO_LONG)
        return await call.deadlines.within(WRITE_DEADLINE_S, work, self.too_long)


class Path:
    """The calls of one path, by method; HEAD is GET without its body."""

    def __init__(self, **endpoints: Endpoint) -> None:
        self.endpoints = endpoints
        if "GET" in endpoints:
            self.endpoints["HEAD"] = endpoints["GET"]
        allowed = ", ".join(sorted({*self.endpoints, "OPTIONS"}))
        self._allow = (b"allow", allowed.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the endpoint of the method, and leave its reply to the gate to be sent.

        Raises:
            EdgeError: `method_not_allowed`.
        """
        call: Call = scope["call"]
        call.params = scope["path_params"]
        endpoint = self.endpoints.get(call.method)
        if endpoint is not None:
            call.reply = await endpoint.answer(call, receive)
        elif call.method == "OPTIONS":
            await send_response(send, 204, [self._allow], b"")
        else:
            detail = f"this path takes {self._allow[1].decode()}"
            raise EdgeError("method_not_allowed", detail, headers=[self._allow])


async def send_response(
    send: Send,
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    *,
    with_body: bool = True,
) -> None:
    """Send a response in the two messages of ASGI."""
    if body:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})
