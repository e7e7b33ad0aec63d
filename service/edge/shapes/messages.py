"""Types of fields, and structs, that the messages of several packages share."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from service.core.ids import ENTITY_TYPES, ID_PATTERN, PREFIXED_PATTERN, PREFIXED_TYPES

# Python's `$` also matches before a final newline; the look-ahead excludes that.
_ID = ID_PATTERN.replace("$", r"(?!\n)$")
_NO_NUL = r"^[^\u0000]*$"

PUBLISHED_PATTERN: Final = "x-pattern"
"""In a schema from msgspec: the pattern to publish in place of the type's. Handlers check the difference, to
name the prefixes in the error."""

Id = Annotated[str, Meta(pattern=_ID)]
PrefixedId = Annotated[Id, Meta(extra_json_schema={PUBLISHED_PATTERN: PREFIXED_PATTERN})]
Role = Annotated[str, Meta(max_length=64, pattern=_NO_NUL)]
Name = Annotated[str, Meta(max_length=512, pattern=_NO_NUL)]

INVALID_ID: Final = "has to be 1 to 128 of A-Z a-z 0-9 _ - . and begin with a letter or digit"
"""The error text for an id of a document or an entity."""
PATTERN_WORDS: Final = {
    _ID: INVALID_ID,
    _NO_NUL: "must not contain NUL",
}
"""The error text for each pattern."""

EntityType = Literal[ENTITY_TYPES]  # type: ignore[valid-type] # the registry is the one list
AnyEntityType = Annotated[EntityType | None, Meta(description="The entity's type. Default: any.")]
IsoTime = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
EpochSeconds = Annotated[int, Meta(description="Seconds since 1970.")]
Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]

NO_PREFIX: Final = f"has to begin with one of {', '.join(PREFIXED_TYPES)} and go on after it"
"""The error text for an id whose prefix is not one of a type."""

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
