"""The calls under `/v1/documents` that are about whole documents."""

from collections import Counter
from functools import partial
from uuid import UUID

from msgspec import UNSET
from starlette.routing import Route

from service.core.changes import DocumentKey, LinkRow, Triple
from service.core.documents import DocumentOutcome, DocumentRequest, DocumentRow, Fields, LinkEdits
from service.core.documents import Item as WantedLink
from service.core.events import timestamp
from service.core.requests import Reply
from service.core.resources import PREFIXED_TYPES, type_of
from service.documents import messages
from service.edge.call import Call, invalid_field
from service.edge.endpoint import WRITE, Endpoint, Path
from service.edge.messages import encode
from service.store.documents import DocumentWriter


class Documents:
    """Handlers of the document calls."""

    def __init__(self, writer: DocumentWriter) -> None:
        self._writer = writer

    async def put(self, call: Call, body: messages.PutDocument) -> Reply:
        """Make or replace a document whose id the caller owns; with `resources`, its links are set."""
        document_id = call.params["id"]
        if body.id not in {UNSET, document_id}:
            raise invalid_field("id", "differs from the id in the path")
        key = (call.key.workspace_id, document_id)
        wanted = None if body.resources is UNSET else _wanted(key, body.resources, "resources")
        return await self._writer.write(
            DocumentRequest(
                caller=call.caller,
                operation="put",
                document_id=document_id,
                respond=partial(_changed_reply, "Document created", "Document updated"),
                fields=Fields(body.display_name, body.category, body.metadata),
                edits=LinkEdits(set=wanted),
                revisions=call.revisions,
                idempotency=call.idempotency,
            )
        )


def routes(documents: Documents) -> list[Route]:
    """Return the routes of this room."""
    reply = messages.ChangedDocumentReply
    return [
        Route(
            "/v1/documents/{id}",
            Path(
                PUT=Endpoint(
                    documents.put,
                    scope=WRITE,
                    body=messages.PutDocument,
                    replies={201: reply, 200: reply},
                ),
            ),
        ),
    ]


def _wanted(key: DocumentKey, items: list[messages.Item], field: str) -> list[WantedLink]:
    """Return the links that the items ask for, each once."""
    wanted: dict[Triple, WantedLink] = {}
    for index, item in enumerate(items):
        triple, role = _target(key, item, f"{field}[{index}]")
        wanted.setdefault(triple, WantedLink(triple, role))
    return list(wanted.values())


def _target(key: DocumentKey, item: messages.Item, field: str) -> tuple[Triple, str | None]:
    if isinstance(item, messages.EntityItem):
        return Triple(*key, item.entity_type, item.entity_id), item.role
    entity_type = type_of(item)
    if entity_type is None:
        raise invalid_field(field, f"has to be one of {', '.join(PREFIXED_TYPES)} and an id")
    return Triple(*key, entity_type, item), None


def _changed_reply(created: str, changed: str, outcome: DocumentOutcome) -> Reply:
    message = messages.ChangedDocumentReply(
        shown(outcome.row, outcome.links),
        messages.LinkChanges(
            *(
                _texts(ids)
                for ids in (outcome.linked, outcome.restored, outcome.unlinked, outcome.updated)
            )
        ),
        created if outcome.created else changed,
    )
    return Reply(201 if outcome.created else 200, encode(message), etag_of(outcome.row))


def _texts(ids: list[UUID]) -> list[str]:
    return [str(link_id) for link_id in ids]


def etag_of(row: DocumentRow) -> str:
    """Return the document's revision as an entity tag."""
    return f'"{row.revision}"'


def shown(row: DocumentRow, links: list[LinkRow]) -> messages.Document:
    """Return the document as callers see it."""
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
        row.metadata,
        timestamp(row.created_at),
        timestamp(row.updated_at),
        entities,
        dict(Counter(entity.entity_type for entity in entities)),
    )
