"""The registry of entity types: the one place that knows their names and id prefixes."""

import re
from typing import Final

NAMED_TYPES: Final = ("contact", "company", "deal", "event", "matter", "task")
"""Types that a caller names in the body of `/link`."""

PREFIXED_TYPES: Final = {
    "ful_": "fulfillment",
    "ship_": "shipment",
    "ast_": "asset",
    "mfst_": "manifest",
    "item_": "item",
}
"""Types that `/links` infers from the prefix of the resource's id."""

ENTITY_TYPES: Final = (*NAMED_TYPES, *PREFIXED_TYPES.values())

ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$"
"""Ids of documents and entities: opaque, safe in a URL's path, a log line and a Kafka key."""

PREFIX_PATTERN: Final = f"^({'|'.join(PREFIXED_TYPES)})."
"""A known prefix, and at least one more character."""

valid_id: Final = re.compile(ID_PATTERN.removesuffix("$") + r"\Z").match
"""Returns None for a text that cannot be the id of a document or an entity."""


def type_of(resource_id: str) -> str | None:
    """Return the type that belongs to the id's prefix; None: unknown prefix, or nothing after it."""
    prefix, underscore, rest = resource_id.partition("_")
    return PREFIXED_TYPES.get(prefix + underscore) if rest else None
