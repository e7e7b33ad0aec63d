"""What callers get about entities."""

from msgspec import Struct

from service.edge.shapes.messages import Resource


class EntityReply(Struct, frozen=True):
    """The entity that is registered now."""

    data: Resource
    message: str
