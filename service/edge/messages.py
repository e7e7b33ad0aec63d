"""Pieces that the messages of several rooms are made of."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from service.core.resources import ENTITY_TYPES, ID_PATTERN

# Python's `$` also matches before a final newline; the look-ahead closes that door.
Id = Annotated[str, Meta(pattern=ID_PATTERN.replace("$", r"(?!\n)$"))]
Role = Annotated[str, Meta(max_length=64, pattern=r"^[^\u0000]*$")]
EntityType = Literal[ENTITY_TYPES]  # type: ignore[valid-type] # the registry is the one list
IsoTime = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
EpochSeconds = Annotated[int, Meta(description="Seconds since 1970.")]
Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]

encode: Final = msgspec.json.Encoder().encode


class Resource(Struct, frozen=True):
    """The entity at the other end of a link."""

    id: str
    type: str


class Pagination(Struct, frozen=True):
    """Where a page stands in its list."""

    page: int
    limit: int
    total: int
