"""Documents as callers see them."""

from collections import Counter
from collections.abc import Callable
from uuid import UUID

from msgspec.json import decode

from service.core.changes import LinkRow
from service.core.documents import DocumentOutcome, DocumentRow
from service.core.events import timestamp
from service.core.requests import Reply
from service.documents import messages
from service.edge.messages import encode, etag


def changed(*, created: str, otherwise: str) -> Callable[[DocumentOutcome], Reply]:
    """Return what answers a write: the document and the links that changed, under a message."""

    def respond(outcome: DocumentOutcome) -> Reply:
        changes = messages.LinkChanges(
            linked=_texts(outcome.linked),
            restored=_texts(outcome.restored),
            unlinked=_texts(outcome.unlinked),
            updated=_texts(outcome.updated),
        )
        message = created if outcome.created else otherwise
        shown = _shown(outcome.row, outcome.links)
        body = encode(messages.ChangedDocumentReply(shown, changes, message))
        return Reply(201 if outcome.created else 200, body, (etag(outcome.row.revision),))

    return respond


def restored(outcome: DocumentOutcome) -> Reply:
    """Answer a restore, which does nothing to a document that is there."""
    message = "Document restored" if outcome.changed else "Document is not deleted"
    return changed(created=message, otherwise=message)(outcome)


def deleted(outcome: DocumentOutcome) -> Reply:
    """Answer a deletion."""
    removed = messages.RemovedDocument(outcome.row.id)
    return Reply(200, encode(messages.DeleteDocumentReply(removed, "Document deleted")))


def retrieved(row: DocumentRow, links: list[LinkRow]) -> Reply:
    """Answer a read."""
    body = encode(messages.DocumentReply(_shown(row, links), "Document retrieved"))
    return Reply(200, body, (etag(row.revision),))


def unchanged(row: DocumentRow) -> Reply:
    """Answer a read by someone who has the document already."""
    return Reply(304, b"", (etag(row.revision),))


def _texts(ids: list[UUID]) -> list[str]:
    return [str(link_id) for link_id in ids]


def _shown(row: DocumentRow, links: list[LinkRow]) -> messages.Document:
    entities = [
        messages.LinkedEntity(
            str(link.id),
            link.triple.entity_type,
            link.triple.entity_id,
            link.role,
            timestamp(link.created_at),
        )
        for link in links
    ]
    return messages.Document(
        row.id,
        row.display_name,
        row.category,
        None if row.metadata is None else decode(row.metadata),
        timestamp(row.created_at),
        timestamp(row.updated_at),
        entities,
        dict(Counter(entity.entity_type for entity in entities)),
    )
