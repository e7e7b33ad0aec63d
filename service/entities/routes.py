"""The calls under `/v1/entities`."""

from typing import Literal

from starlette.routing import Route

from service.core.entities import EntityWrite
from service.core.errors import NotFound, PreconditionFailed
from service.core.values import EntityKey
from service.core.writes import Reply
from service.edge.calls.call import Call
from service.edge.calls.endpoint import WRITE, Endpoint, Path
from service.edge.shapes.messages import Resource, encode
from service.entities import messages
from service.store.writing.deletion import EntityWriter

NOT_COMPLETE = (
    "not complete in time: links to the entity are still being removed, or the database does not answer; "
    "call again to continue"
)


class Entities:
    """Handlers of the entity calls."""

    def __init__(self, writer: EntityWriter) -> None:
        self._writer = writer

    async def put(self, call: Call) -> Reply:
        """Register an entity, so that documents can be linked to it, or restore a deleted one."""
        key = _key(call)
        return await self._write(
            call,
            "register",
            key,
            reply=_reply(200, key, "Entity already registered"),
            reply_if_new=_reply(201, key, "Entity registered"),
        )

    async def delete(self, call: Call) -> Reply:
        """Delete an entity and unlink it from every document.

        A deletion that takes too long is answered 503: call again to continue. 404 then means that
        the deletion is complete.
        """
        key = _key(call)
        return await self._write(call, "delete", key, reply=_reply(200, key, "Entity deleted"))

    async def _write(
        self,
        call: Call,
        operation: Literal["register", "delete"],
        key: EntityKey,
        *,
        reply: Reply,
        reply_if_new: Reply | None = None,
    ) -> Reply:
        write = EntityWrite(
            caller=call.caller,
            idempotency=call.idempotency,
            preconditions=call.preconditions,
            key=key,
            operation=operation,
            reply=reply,
            reply_if_new=reply_if_new,
        )
        return await self._writer.write(write)


def routes(entities: Entities) -> list[Route]:
    """Return the routes of entities."""
    reply = messages.EntityReply
    return [
        Route(
            "/v1/entities/{type}/{entity_id}",
            Path(
                PUT=Endpoint(
                    entities.put,
                    scope=WRITE,
                    replies={201: reply, 200: reply},
                    refusals=(PreconditionFailed,),
                    too_long=NOT_COMPLETE,
                ),
                DELETE=Endpoint(
                    entities.delete,
                    scope=WRITE,
                    replies={200: reply},
                    refusals=(NotFound, PreconditionFailed),
                    too_long=NOT_COMPLETE,
                ),
            ),
        )
    ]


def _key(call: Call) -> EntityKey:
    return EntityKey(call.key.workspace_id, call.params["type"], call.params["entity_id"])


def _reply(status: int, key: EntityKey, message: str) -> Reply:
    return Reply(status, encode(messages.EntityReply(Resource(key.id, key.type), message)))
