"""The gate leaves no reference cycle behind."""

import gc
import weakref

from starlette.types import Message, Scope

from service.app import build
from service.settings import read_settings


class Connection:
    """A server's object of a request: it refers to the scope, and the application to its methods."""

    def __init__(self) -> None:
        self.scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/healthz",
            "raw_path": b"/healthz",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"test")],
        }
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        """Return the end of the body."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Take a message of the response."""
        self.sent.append(message)


async def test_a_request_is_freed_without_the_garbage_collector() -> None:
    """Nothing in the scope refers to the connection: collecting a cycle takes a sixth of a request's time."""
    app = build(read_settings({"DATABASE_URL": "postgresql://nowhere"}))
    connection = Connection()
    freed = weakref.ref(connection)
    gc.disable()
    try:
        await app(connection.scope, connection.receive, connection.send)
        assert connection.sent[0]["status"] == 200
        del connection
        assert freed() is None
    finally:
        gc.enable()
