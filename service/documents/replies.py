"""The replies of the document calls; a document's links are encoded a page at a time."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from msgspec import Raw
from msgspec.json import format as format_json

from service.core.documents import DocumentOutcome, MakeDocumentReply
from service.core.events import timestamp
from service.core.values import DocumentRow, LinkRow
from service.core.writes import Reply, Slices
from service.documents import messages
from service.edge.shapes.messages import encode
from service.store.reading import PAGE, LinkPages


def changed(*, created: str, otherwise: str) -> MakeDocumentReply:
    """Return the function that replies with the document, the ids of the changed links and a message."""

    def respond(outcome: DocumentOutcome, links: Sequence[LinkRow]) -> Slices:
        changes = messages.LinkChanges(
            linked=[str(link_id) for link_id in outcome.links["created"]],
            restored=[str(link_id) for link_id in outcome.links["restored"]],
            unlinked=[str(link_id) for link_id in outcome.links["unlinked"]],
            updated=[str(link_id) for link_id in outcome.links["updated"]],
        )
        message = created if outcome.created else otherwise
        view = DocumentView(outcome.row)
        for start in range(0, len(links), PAGE):
            if start:
                yield
            view.add(links[start : start + PAGE])
        shown = view.message()
        body = encode(messages.ChangedDocumentReply(shown, changes, message))
        return Reply(201 if outcome.created else 200, body, revision=outcome.row.revision)

    return respond


def restored(outcome: DocumentOutcome, links: Sequence[LinkRow]) -> Slices:
    """Reply to a restore, which changes nothing if the document is not deleted."""
    message = "Document restored" if outcome.changed else "Document is not deleted"
    return changed(created=message, otherwise=message)(outcome, links)


def deleted(outcome: DocumentOutcome, _: Sequence[LinkRow]) -> Slices:
    """Reply to a deletion."""
    yield from ()
    removed = messages.RemovedDocument(outcome.row.id)
    return Reply(200, encode(messages.DeleteDocumentReply(removed, "Document deleted")))


async def retrieved(row: DocumentRow, links: LinkPages) -> Reply:
    """Reply to a read."""
    view = DocumentView(row)
    async for page in links:
        view.add(page)
    body = encode(messages.DocumentReply(view.message(), "Document retrieved"))
    return Reply(200, body, revision=row.revision)


def unchanged(row: DocumentRow) -> Reply:
    """Reply 304 to a read whose If-None-Match matches."""
    return Reply(304, b"", revision=row.revision)


class DocumentView:
    """A document as callers see it; its links are encoded a page at a time."""

    def __init__(self, row: DocumentRow) -> None:
        self._row = row
        self._entities: list[bytes] = []
        self._linkages: Counter[str] = Counter()

    def add(self, links: Sequence[LinkRow]) -> None:
        """Add a page of links."""
        self._entities.append(encode([_entity(link) for link in links])[1:-1])
        self._linkages.update(link.key.entity.type for link in links)

    def message(self) -> messages.Document:
        """Return the document with the links so far."""
        row, entities = self._row, b",".join(self._entities)
        return messages.Document(
            row.id,
            row.display_name,
            row.category,
            None if row.metadata is None else _compact(row.metadata),
            timestamp(row.created_at),
            timestamp(row.updated_at),
            cast("list[messages.LinkedEntity]", Raw(b"[%b]" % entities)),  # encoded already
            dict(self._linkages),
        )


def _compact(metadata: str) -> dict[str, Any]:
    """Return the JSON without spaces; decoding and encoding it would block the event loop for longer."""
    return cast("dict[str, Any]", Raw(format_json(metadata.encode(), indent=-1)))


def _entity(link: LinkRow) -> messages.LinkedEntity:
    return messages.LinkedEntity(
        str(link.id),
        link.key.entity.type,
        link.key.entity.id,
        link.role,
        timestamp(link.created_at),
    )
