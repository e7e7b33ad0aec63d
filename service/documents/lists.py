"""Lists of the documents that are linked to a resource id or to an entity."""

from typing import Annotated

from msgspec import Meta, Struct

from service.core.events import timestamp
from service.core.values import EntityKey
from service.core.writes import Reply
from service.edge.shapes.messages import AnyEntityType, Id, IsoTime, Pagination, Role, Uuid, encode
from service.edge.shapes.pages import PageQuery, counted, next_link, pagination_of, row_range_of
from service.store.database import Database
from service.store.reading import ListedDocument, list_documents, require_entity


class EntityDocumentsQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Conditions on an entity's documents."""

    role: Annotated[Role | None, Meta(description="The role of the links. Default: any.")] = None


class DocumentsQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The resource whose documents are listed; without a type, every resource with this id."""

    resource_id: Annotated[Id, Meta(description="The entity's id.", examples=["ship_abc123"])]
    resource_type: AnyEntityType = None


class DocumentLink(Struct, frozen=True):
    """The link between the document and the resource."""

    id: Uuid
    role: str | None
    created_at: IsoTime


class LinkedDocument(Struct, frozen=True):
    """A document that is linked to the resource."""

    id: str
    display_name: str | None
    link: DocumentLink


class DocumentList(Struct, frozen=True):
    """A page of documents, oldest link first."""

    data: list[LinkedDocument]
    pagination: Pagination
    message: str


async def documents_of_resource(
    database: Database, workspace_id: str, query: DocumentsQuery
) -> Reply:
    """List the documents of a resource; an unknown resource has none."""
    key = (workspace_id, query.resource_type, query.resource_id)
    total, found = await list_documents(database, key, None, row_range_of(query))
    return _page(query, total, found)


async def documents_of_entity(
    database: Database, key: EntityKey, query: EntityDocumentsQuery
) -> Reply:
    """List the documents of an entity.

    Raises:
        NotFound: the entity is unknown or deleted.
    """
    await require_entity(database, key)
    total, found = await list_documents(database, key, query.role, row_range_of(query))
    return _page(query, total, found)


def _page(query: PageQuery, total: int, found: list[ListedDocument]) -> Reply:
    data = [
        LinkedDocument(
            document.id,
            document.display_name,
            DocumentLink(str(document.link_id), document.role, timestamp(document.created_at)),
        )
        for document in found
    ]
    message = counted(len(data), "document", "retrieved")
    body = encode(DocumentList(data, pagination_of(query, total), message))
    return Reply(200, body, next_link(query, [document.link_id for document in found]))
