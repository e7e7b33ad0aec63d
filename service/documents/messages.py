"""Bodies of the calls for whole documents."""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from service.edge.shapes.messages import EntityType, Id, IsoTime, Name, PrefixedId, Role, Uuid

OBJECT_OR_NULL: Final[dict[str, Any]] = {
    "anyOf": [{"type": "object", "additionalProperties": True}, {"type": "null"}]
}
"""The schema of a field that is stored as JSON; edge/calls/stored_json.py checks its bytes."""


class EntityItem(Struct, frozen=True, forbid_unknown_fields=True):
    """A link to an entity whose type is named."""

    entity_type: EntityType
    entity_id: Id
    role: Role | None = None


Item = PrefixedId | EntityItem
"""A resource id with a known prefix, or an entity."""


class PutDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """A document; `resources` is the set of its links.

    If `resources` is absent or null, the links stay. An empty list removes all links.
    """

    id: Id | UnsetType = UNSET
    display_name: Name | None = None
    category: Name | None = None
    metadata: Annotated[Raw, Meta(extra_json_schema=OBJECT_OR_NULL)] | UnsetType = UNSET
    resources: list[Item] | UnsetType | None = UNSET


class Edits(Struct, frozen=True, forbid_unknown_fields=True):
    """Links to `add` and to `remove`, or the whole `set` of them, which is combined with neither.

    A null list counts as absent. An empty list beside another list also counts as absent. An empty `set`
    alone removes all links.
    """

    add: list[Item] | UnsetType | None = UNSET
    remove: list[Item] | UnsetType | None = UNSET
    set: list[Item] | UnsetType | None = UNSET


class UpdateDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of a document. An absent field is unchanged, null clears it; `metadata` is replaced whole.

    Null and absent `resources` are the same.
    """

    display_name: Name | UnsetType | None = UNSET
    category: Name | UnsetType | None = UNSET
    metadata: Annotated[Raw, Meta(extra_json_schema=OBJECT_OR_NULL)] | UnsetType = UNSET
    resources: Edits | UnsetType | None = UNSET


class LinkedEntity(Struct, frozen=True):
    """An active link of the document."""

    link_id: Uuid
    entity_type: str
    entity_id: str
    role: str | None
    created_at: IsoTime


class Document(Struct, frozen=True):
    """A document with its active links, oldest first, and their number by type."""

    id: str
    display_name: str | None
    category: str | None
    metadata: dict[str, Any] | None
    created_at: IsoTime
    updated_at: IsoTime
    linked_entities: list[LinkedEntity]
    linkages: dict[str, int]


class DocumentReply(Struct, frozen=True):
    """The document."""

    data: Document
    message: str


class LinkChanges(Struct, frozen=True):
    """Ids of the links that a call changed."""

    linked: list[Uuid]
    restored: list[Uuid]
    unlinked: list[Uuid]
    updated: list[Uuid]


class ChangedDocumentReply(Struct, frozen=True):
    """The document after the call, and the links that the call changed."""

    data: Document
    changes: LinkChanges
    message: str


class RemovedDocument(Struct, frozen=True):
    """The document that was deleted."""

    id: str


class DeleteDocumentReply(Struct, frozen=True):
    """The deleted document. A restore brings it back with its links."""

    data: RemovedDocument
    message: str
