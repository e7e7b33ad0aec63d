"""Documents as callers see them; their links are encoded a page at a time."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast
from uuid import UUID

from msgspec import Raw
from msgspec.json import format as format_json

from service.core.changes import LinkRow
from service.core.documents import DocumentOutcome, DocumentRow, LinkPages
from service.core.events import timestamp
from service.core.requests import Reply
from service.documents import messages
from service.edge.shapes.messages import encode, etag


def changed(
    *, created: str, otherwise: str
) -> Callable[[DocumentOutcome, LinkPages], Awaitable[Reply]]:
    """Return what answers a write: the document and the links that changed, under a message."""

    async def respond(outcome: DocumentOutcome, links: LinkPages) -> Reply:
        changes = messages.LinkChanges(
            linked=_texts(outcome.linked),
            restored=_texts(outcome.restored),
            unlinked=_texts(outcome.unlinked),
            updated=_texts(outcome.updated),
        )
        message = created if outcome.created else otherwise
        shown = await _shown(outcome.row, links)
        body = encode(messages.ChangedDocumentReply(shown, changes, message))
        return Reply(201 if outcome.created else 200, body, (etag(outcome.row.revision),))

    return respond


async def restored(outcome: DocumentOutcome, links: LinkPages) -> Reply:
    """Answer a restore, which does nothing to a document that is there."""
    message = "Document restored" if outcome.changed else "Document is not deleted"
    return await changed(created=message, otherwise=message)(outcome, links)


async def deleted(outcome: DocumentOutcome, _: LinkPages) -> Reply:
    """Answer a deletion."""
    removed = messages.RemovedDocument(outcome.row.id)
    return Reply(200, encode(messages.DeleteDocumentReply(removed, "Document deleted")))


async def retrieved(row: DocumentRow, links: LinkPages) -> Reply:
    """Answer a read."""
    body = encode(messages.DocumentReply(await _shown(row, links), "Document retrieved"))
    return Reply(200, body, (etag(row.revision),))


def unchanged(row: DocumentRow) -> Reply:
    """Answer a read by someone who has the document already."""
    return Reply(304, b"", (etag(row.revision),))


def _texts(ids: list[UUID]) -> list[str]:
    return [str(link_id) for link_id in ids]


async def _shown(row: DocumentRow, links: LinkPages) -> messages.Document:
    entities: list[bytes] = []
    linkages: Counter[str] = Counter()
    async for page in links:
        entities.append(encode([_entity(link) for link in page])[1:-1])
        linkages.update(link.triple.entity_type for link in page)
    return messages.Document(
        row.id,
        row.display_name,
        row.category,
        None if row.metadata is None else _compact(row.metadata),
        timestamp(row.created_at),
        timestamp(row.updated_at),
        cast("list[messages.LinkedEntity]", Raw(b"[%b]" % b",".join(entities))),  # encoded already
        dict(linkages),
    )


def _compact(metadata: str) -> dict[str, Any]:
    """Return the JSON without spaces; to decode and encode it would hold other callers up."""
    return cast("dict[str, Any]", Raw(format_json(metadata.encode(), indent=-1)))


def _entity(link: LinkRow) -> messages.LinkedEntity:
    return messages.LinkedEntity(
        str(link.id),
        link.triple.entity_type,
        link.triple.entity_id,
        link.role,
        timestamp(link.created_at),
    )
