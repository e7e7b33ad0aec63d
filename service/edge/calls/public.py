"""Paths that anybody may read, without a key: for operators, and what describes the service."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from msgspec import Struct
from starlette.types import Receive, Scope, Send

from service.core.errors import Refusal
from service.core.requests import Reply
from service.edge.calls.call import Call
from service.edge.calls.endpoint import Endpoint, Handler, Path, send_response

JSON_HEADER: Final = (b"content-type", b"application/json")


class Page(Endpoint):
    """One thing to read; the handler's reply carries its own Content-Type.

    `replies` says what each response holds: a struct as JSON, or a media type, or nothing (None).
    """

    def __init__(
        self,
        handler: Handler,
        *,
        replies: Mapping[int, type[Struct] | str | None],
        refusals: tuple[type[Refusal], ...] = (),
    ) -> None:
        super().__init__(handler, scope="", replies={}, refusals=refusals)
        self.contents = replies

    @property
    def kept(self) -> bool:
        """Whether readers may keep it: asked again, it can answer that it is unchanged."""
        return HTTPStatus.NOT_MODIFIED in self.contents


class PublicPath(Path):
    """A path with GET, HEAD and OPTIONS."""

    def __init__(self, page: Page) -> None:
        super().__init__(GET=page)
        self._read = page.handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what the page's handler answers.

        Raises:
            EdgeError: `method_not_allowed`.
        """
        call: Call = scope["call"]
        if call.method not in {"GET", "HEAD"}:
            await super().__call__(scope, receive, send)
            return
        call.params = scope["path_params"]
        reply: Reply = await self._read(call)
        with_body = call.method == "GET"
        await send_response(
            send, reply.status, list(reply.headers), reply.body, with_body=with_body
        )
