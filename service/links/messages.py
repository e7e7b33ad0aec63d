"""Bodies and queries of the calls for single links, in the formats of two vendors."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.core.ids import NAMED_TYPES
from service.edge.shapes.messages import (
    AnyEntityType,
    EntityType,
    EpochSeconds,
    Id,
    IsoTime,
    Pagination,
    PrefixedId,
    Resource,
    Role,
    Uuid,
)
from service.edge.shapes.pages import PageQuery


class LinkRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Link the document to an entity whose type is named."""

    entity_type: Literal[NAMED_TYPES]  # type: ignore[valid-type] # the registry is the one list
    entity_id: Id
    role: Role | None = None


class Link(Struct, frozen=True):
    """A link, as `/link` shows it."""

    link_id: str
    document_id: str
    entity_type: str
    entity_id: str
    role: str | None
    created_at: IsoTime


class LinkReply(Struct, frozen=True):
    """The link after the call."""

    data: Link


class RoleRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The link's new role; null clears it."""

    role: Role | None


class RoleReply(Struct, frozen=True):
    """The link with its new role."""

    data: Link
    message: str


class ResourceLinkRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Link the document to a resource whose type follows from its id's prefix."""

    resource_id: PrefixedId


class DocumentName(Struct, frozen=True):
    """The document of the link."""

    id: str


class ResourceLink(Struct, frozen=True):
    """A link, as `/links` lists it."""

    id: Uuid
    resource: Resource
    created_at: EpochSeconds


class LinkedResource(ResourceLink, frozen=True):
    """A link, as `/links` makes it; `restored`: it was removed before."""

    document: DocumentName
    restored: bool


class ResourceLinkReply(Struct, frozen=True):
    """The link after the call; the message says whether it is new, restored or unchanged."""

    data: LinkedResource
    message: str


class LinksQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Conditions on a document's links. The prefix of `resource_id` implies no type."""

    resource_type: AnyEntityType = None
    resource_id: Annotated[Id | None, Meta(description="The entity's id. Default: any.")] = None


class ResourceLinkList(Struct, frozen=True):
    """A page of a document's active links, oldest first."""

    data: list[ResourceLink]
    pagination: Pagination
    message: str


class UnlinkQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The resource whose link is removed."""

    resource_id: Annotated[Id, Meta(description="The entity's id.", examples=["ship_abc123"])]
    resource_type: Annotated[
        EntityType | None, Meta(description="Its type; required if the id's prefix implies none.")
    ] = None


class RemovedLink(Struct, frozen=True):
    """The link that was removed."""

    id: Uuid


class UnlinkReply(Struct, frozen=True):
    """The removed link. The document stays."""

    data: RemovedLink
    message: str
