"""The calls under `/v1/entities`."""

from functools import partial
from typing import Literal

from msgspec import Struct
from starlette.routing import Route

from service.core.entities import EntityWrite
from service.core.errors import NotFound, PreconditionFailed
from service.core.values import EntityKey
from service.core.writes import Reply
from service.edge.calls.call import Call
from service.edge.calls.endpoint import WRITE, Endpoint, Path
from service.edge.shapes.messages import Resource, encode
from service.store.writing.group import GroupWriter

NOT_COMPLETE = (
    "not complete in time: links to the entity are still being removed, or the database does not answer; "
    "call again to continue"
)


class EntityReply(Struct, frozen=True):
    """The entity of the call."""

    data: Resource
    message: str


class Entities:
    """Handlers of the entity calls."""

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer

    async def put(self, call: Call) -> Reply:
        """Register an entity, so that documents can be linked to it, or restore a deleted one."""
        return await self._write(
            call, "register", "Entity already registered", if_new="Entity registered"
        )

    async def delete(self, call: Call) -> Reply:
        """Delete an entity and unlink it from every document.

        A deletion that takes too long is answered 503: call again to continue. 404 then means that
        the deletion is complete.
        """
        return await self._write(call, "delete", "Entity deleted")

    async def _write(
        self,
        call: Call,
        operation: Literal["register", "delete"],
        message: str,
        *,
        if_new: str | None = None,
    ) -> Reply:
        key = EntityKey(call.key.workspace_id, call.params["type"], call.params["entity_id"])
        write = EntityWrite(
            caller=call.caller,
            idempotency=call.idempotency,
            preconditions=call.preconditions,
            key=key,
            operation=operation,
            reply=_reply(200, key, message),
            reply_if_new=None if if_new is None else _reply(201, key, if_new),
        )
        return await self._writer.write(write)


def routes(entities: Entities) -> list[Route]:
    """Return the routes of entities."""
    write = partial(Endpoint, scope=WRITE, too_long=NOT_COMPLETE)
    put = write(
        entities.put, replies={201: EntityReply, 200: EntityReply}, refusals=(PreconditionFailed,)
    )
    delete = write(
        entities.delete, replies={200: EntityReply}, refusals=(NotFound, PreconditionFailed)
    )
    return [Route("/v1/entities/{type}/{entity_id}", Path(PUT=put, DELETE=delete))]


def _reply(status: int, key: EntityKey, message: str) -> Reply:
    return Reply(status, encode(EntityReply(Resource(key.id, key.type), message)))
