"""Bodies of the calls for entities."""

from msgspec import Struct

from service.edge.shapes.messages import Resource


class EntityReply(Struct, frozen=True):
    """The entity of the call."""

    data: Resource
    message: str
