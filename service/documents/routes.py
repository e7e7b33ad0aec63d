"""The calls for whole documents, under `/v1/documents`."""

import time
from functools import partial

from msgspec import UNSET, UnsetType, structs
from starlette.routing import Route

from service.core.documents import (
    DocumentWrite,
    Fields,
    LinkEdits,
    MakeDocumentReply,
    Operation,
    WantedLink,
)
from service.core.errors import Conflict, NotFound, PreconditionFailed
from service.core.ids import DOCUMENT_PREFIX, IdSource, to_text, type_of
from service.core.values import (
    MAX_LINKS,
    DocumentKey,
    DocumentRow,
    DocumentState,
    EntityKey,
    LinkKey,
)
from service.core.writes import Reply
from service.documents import messages, replies
from service.documents.lists import (
    DocumentList,
    DocumentsQuery,
    EntityDocumentsQuery,
    documents_of_entity,
    documents_of_resource,
)
from service.edge.calls.call import Call, invalid_field
from service.edge.calls.endpoint import READ, WRITE, Endpoint, Path
from service.edge.calls.problems import FieldError
from service.edge.calls.stored_json import stored_json
from service.edge.calls.validation import wrong_fields
from service.edge.shapes.messages import NO_PREFIX
from service.store.database import Database
from service.store.reading import LinkPages, read_document, stored_metadata
from service.store.writing.group import GroupWriter


class Documents:
    """Handlers of the document calls."""

    def __init__(self, database: Database, writer: GroupWriter, ids: IdSource) -> None:
        self._database = database
        self._writer = writer
        self._ids = ids

    async def create(self, call: Call, body: messages.PutDocument) -> Reply:
        """Create a document, with links to its `resources`; without an `id`, the service makes one."""
        if isinstance(body.id, UnsetType):
            document_id = to_text(DOCUMENT_PREFIX, self._ids.uuid7(time.time_ns() // 1000))
        else:
            document_id = body.id
        return await self._put(call, "create", document_id, body)

    async def put(self, call: Call, body: messages.PutDocument) -> Reply:
        """Create or replace the document with this id; `resources` is the whole set of its links.

        With `resources` absent or null the links are unchanged; `[]` removes all of them. An absent
        `display_name`, `category` or `metadata` is cleared: to change one of them and keep the others,
        POST to the document.
        """
        document_id = call.params["id"]
        if body.id not in {UNSET, document_id}:
            raise invalid_field("id", "differs from the id in the path")
        return await self._put(call, "put", document_id, body)

    async def update(self, call: Call, body: messages.UpdateDocument) -> Reply:
        """Change a document and its links in one transaction."""
        key = _key(call)
        wanted = (
            edits(key, body.resources)
            if isinstance(body.resources, messages.Edits)
            else LinkEdits()
        )
        fields = await self._fields(body)
        respond = replies.changed(created="Document updated", otherwise="Document updated")
        write = _asked(call, "update", key, respond)
        return await self._writer.write(structs.replace(write, fields=fields, edits=wanted))

    async def delete(self, call: Call) -> Reply:
        """Delete a document and its links; a restore brings both back."""
        return await self._writer.write(_asked(call, "delete", _key(call), replies.deleted))

    async def restore(self, call: Call) -> Reply:
        """Restore a document with the links that its deletion removed, if their entities exist."""
        return await self._writer.write(_asked(call, "restore", _key(call), replies.restored))

    async def read(self, call: Call) -> Reply:
        """Read a document with its active links."""
        preconditions = call.preconditions

        async def respond(row: DocumentRow, links: LinkPages) -> Reply:
            if preconditions is not None:
                document = DocumentState(row.version, row.revision)
                preconditions.check_match(document)
                if preconditions.is_known(document):
                    return replies.unchanged(row)
            return await replies.retrieved(row, links)

        return await read_document(self._database, _key(call), respond)

    async def find(self, call: Call, query: DocumentsQuery) -> Reply:
        """List the documents that are linked to a resource, oldest link first."""
        return await documents_of_resource(self._database, call.key.workspace_id, query)

    async def of_entity(self, call: Call, query: EntityDocumentsQuery) -> Reply:
        """List the documents that are linked to an entity, oldest link first."""
        key = EntityKey(call.key.workspace_id, call.params["type"], call.params["entity_id"])
        return await documents_of_entity(self._database, key, query)

    async def _put(
        self, call: Call, operation: Operation, document_id: str, body: messages.PutDocument
    ) -> Reply:
        key = DocumentKey(call.key.workspace_id, document_id)
        wanted = LinkEdits()
        if isinstance(body.resources, list):
            wanted = LinkEdits(set=wanted_links(key, body.resources, "resources"))
        fields = await self._fields(body)
        if fields.metadata is UNSET:
            fields = structs.replace(fields, metadata=None)
        respond = replies.changed(created="Document created", otherwise="Document updated")
        write = _asked(call, operation, key, respond)
        return await self._writer.write(structs.replace(write, fields=fields, edits=wanted))

    async def _fields(self, body: messages.PutDocument | messages.UpdateDocument) -> Fields:
        if isinstance(body.metadata, UnsetType):
            return Fields(body.display_name, body.category)
        json = await stored_json("metadata", body.metadata)
        if json is not None:
            json = await stored_metadata(self._database, json)
        return Fields(body.display_name, body.category, json)


def routes(documents: Documents) -> list[Route]:
    """Return the routes of documents."""
    changed = messages.ChangedDocumentReply
    find = Endpoint(documents.find, scope=READ, replies={200: DocumentList})
    read = Endpoint(
        documents.read,
        scope=READ,
        replies={200: messages.DocumentReply, 304: None},
        refusals=(NotFound, PreconditionFailed),
        etag=True,
    )
    create = Endpoint(
        documents.create,
        scope=WRITE,
        replies={201: changed},
        refusals=(NotFound, Conflict, PreconditionFailed),
        etag=True,
    )
    write = partial(Endpoint, scope=WRITE, refusals=(NotFound, PreconditionFailed))
    put = write(documents.put, replies={201: changed, 200: changed}, etag=True)
    update = write(
        documents.update,
        replies={200: changed},
        refusals=(NotFound, Conflict, PreconditionFailed),
        etag=True,
    )
    delete = write(documents.delete, replies={200: messages.DeleteDocumentReply})
    restore = write(documents.restore, replies={200: changed}, etag=True)
    return [
        Route("/v1/documents", Path(POST=create, GET=find)),
        Route("/v1/documents/{id}", Path(GET=read, PUT=put, POST=update, DELETE=delete)),
        Route("/v1/documents/{id}/restore", Path(POST=restore)),
    ]


def entity_routes(documents: Documents) -> list[Route]:
    """Return the route that lists an entity's documents; it is published among those of entities."""
    of_entity = Endpoint(
        documents.of_entity,
        scope=READ,
        replies={200: DocumentList},
        refusals=(NotFound,),
        published_as=("entities", "entities_documents"),
    )
    return [Route("/v1/entities/{type}/{entity_id}/documents", Path(GET=of_entity))]


def _key(call: Call) -> DocumentKey:
    return DocumentKey(call.key.workspace_id, call.params["id"])


def _asked(
    call: Call, operation: Operation, key: DocumentKey, respond: MakeDocumentReply
) -> DocumentWrite:
    """Return the write of a call that changes no fields and names no links."""
    return DocumentWrite(
        caller=call.caller,
        idempotency=call.idempotency,
        preconditions=call.preconditions,
        operation=operation,
        key=key,
        respond=respond,
    )


def edits(key: DocumentKey, resources: messages.Edits) -> LinkEdits:
    """Return the edits that a body's `resources` asks for.

    Some generated clients send an empty list for each list that their program has not set. So an empty list
    beside another one counts as absent: it must not remove all links.

    Raises:
        EdgeError: `validation_error`: `set` beside `add` or `remove`, a resource in both, or as wanted_links.
    """
    given = structs.asdict(resources)
    lists = {name: items for name, items in given.items() if isinstance(items, list)}
    if len(lists) > 1:
        lists = {name: items for name, items in lists.items() if items}
    if "set" in lists:
        if len(lists) > 1:
            message = "cannot be combined with add or remove"
            raise wrong_fields([FieldError("resources.set", message)])
        return LinkEdits(set=wanted_links(key, lists["set"], "resources.set"))
    to_add = wanted_links(key, lists.get("add", []), "resources.add")
    to_remove = wanted_links(key, lists.get("remove", []), "resources.remove")
    removed = {item.key for item in to_remove}
    both = [item.key.entity.id for item in to_add if item.key in removed]
    if both:
        message = f"{', '.join(both[:5])}: cannot be added and removed at once"
        raise wrong_fields([FieldError("resources.remove", message)])
    return LinkEdits(to_add, [item.key for item in to_remove])


def wanted_links(document: DocumentKey, items: list[messages.Item], field: str) -> list[WantedLink]:
    """Return the links that the items of a body's field name, each once.

    Raises:
        EdgeError: `validation_error`: too many items, or ids without a known prefix.
    """
    if len(items) > MAX_LINKS:
        message = f"has {len(items)} items, and {MAX_LINKS} is the most: send them in several calls"
        raise wrong_fields([FieldError(field, message)])
    wanted: dict[LinkKey, WantedLink] = {}
    errors = []
    for index, item in enumerate(items):
        if isinstance(item, messages.EntityItem):
            entity_type, entity_id, role = item.entity_type, item.entity_id, item.role
        elif (entity_type := type_of(item)) is not None:
            entity_id, role = item, None
        else:
            errors.append(FieldError(f"{field}[{index}]", NO_PREFIX))
            continue
        key = LinkKey(document, EntityKey(document.workspace_id, entity_type, entity_id))
        wanted.setdefault(key, WantedLink(key, role))
    if errors:
        raise wrong_fields(errors)
    return list(wanted.values())
