"""The calls under `/v1/entities`."""

from starlette.routing import Route

from service.core.requests import Reply
from service.core.resources import ENTITY_TYPES
from service.edge.call import Call, invalid_field
from service.edge.endpoint import WRITE, Endpoint, Path
from service.edge.messages import Resource, encode
from service.entities import messages
from service.store.entities import EntityWriter


class Entities:
    """Handlers of the entity calls."""

    def __init__(self, writer: EntityWriter) -> None:
        self._writer = writer

    async def put(self, call: Call) -> Reply:
        """Register an entity, so that documents can be linked to it; bring it back if it was deleted."""
        entity_type, entity_id = call.params["type"], call.params["entity_id"]
        if entity_type not in ENTITY_TYPES:
            raise invalid_field("type", f"has to be one of {', '.join(ENTITY_TYPES)}")
        shown = Resource(entity_id, entity_type)

        def respond(registered: bool) -> Reply:  # noqa: FBT001 - its one caller says what it means
            message = "Entity registered" if registered else "Entity already registered"
            return Reply(201 if registered else 200, encode(messages.EntityReply(shown, message)))

        return await self._writer.register(
            (call.key.workspace_id, entity_type, entity_id), respond, call.idempotency
        )


def routes(entities: Entities) -> list[Route]:
    """Return the routes of this room."""
    reply = messages.EntityReply
    return [
        Route(
            "/v1/entities/{type}/{entity_id}",
            Path(PUT=Endpoint(entities.put, scope=WRITE, replies={201: reply, 200: reply})),
        ),
    ]
