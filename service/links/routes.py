"""The calls under `/v1/documents/{id}/link` and `/links`."""

from collections.abc import Callable
from functools import partial

from msgspec import Struct
from starlette.routing import Route

from service.core.errors import Conflict, NotFound, PreconditionFailed, Refusal
from service.core.events import timestamp
from service.core.ids import ENTITY_TYPES, LINK_PREFIX, from_text, microseconds, to_text, type_of
from service.core.links import DocumentStates, LinksWrite
from service.core.values import (
    AddLink,
    Cause,
    Change,
    DocumentKey,
    EntityKey,
    LinkKey,
    LinkRow,
    Outcome,
    SetRole,
    Unlink,
)
from service.core.writes import Reply
from service.edge.calls.call import Call, invalid_field
from service.edge.calls.endpoint import READ, WRITE, Endpoint, Path
from service.edge.shapes.messages import NO_PREFIX, encode
from service.edge.shapes.messages import Resource as ResourceName
from service.edge.shapes.pages import counted, next_link, pagination_of, row_range_of
from service.links import messages
from service.store.database import Database
from service.store.reading import LinkFilter, find_key, list_links
from service.store.writing.group import GroupWriter

NO_TYPE = f"is required, since the id's prefix implies none: one of {', '.join(ENTITY_TYPES)}"

MESSAGE_OF = {
    "created": "Document linked",
    "existing": "Already linked",
    "restored": "Link restored",
}

MessageOf = Callable[[Outcome, LinkRow], Struct]
"""From the outcome, and the link as it is afterwards, to the body of the reply."""


class Links:
    """Handlers of the link calls."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer

    async def link(self, call: Call, body: messages.LinkRequest) -> Reply:
        """Link a document to an entity: 201 for a new link, 200 for one that exists or is restored."""
        key = _key(call, body.entity_type, body.entity_id)
        write = _one_change(call, "link", AddLink(key, body.role), _link_message)
        return await self._writer.write(write)

    async def link_resource(self, call: Call, body: messages.ResourceLinkRequest) -> Reply:
        """Link a document to a resource, whose type follows from the prefix of its id."""
        entity_type = type_of(body.resource_id)
        if entity_type is None:
            raise invalid_field("resource_id", NO_PREFIX)
        key = _key(call, entity_type, body.resource_id)
        write = _one_change(call, "link", AddLink(key), _resource_link_message)
        return await self._writer.write(write)

    async def unlink(self, call: Call) -> Reply:
        """Remove an active link by its id, a UUID or its `dlnk_` form."""
        key = await self._key_of_id(call)
        write = _one_change(call, "unlink", Unlink(key), _unlink_message)
        return await self._writer.write(write)

    async def unlink_resource(self, call: Call, query: messages.UnlinkQuery) -> Reply:
        """Remove an active link by its document and its resource."""
        entity_type = query.resource_type or type_of(query.resource_id)
        if entity_type is None:
            raise invalid_field("resource_type", NO_TYPE)
        key = _key(call, entity_type, query.resource_id)
        write = _one_change(call, "unlink", Unlink(key), _unlink_message)
        return await self._writer.write(write)

    async def set_role(self, call: Call, body: messages.RoleRequest) -> Reply:
        """Change the role of an active link, or clear it with null."""
        key = await self._key_of_id(call)
        write = _one_change(call, "update", SetRole(key, body.role), _role_message)
        return await self._writer.write(write)

    async def list_links(self, call: Call, query: messages.LinksQuery) -> Reply:
        """List a document's active links, oldest first."""
        total, links = await list_links(
            self._database,
            _document(call),
            LinkFilter(query.resource_type, query.resource_id),
            row_range_of(query),
        )
        data = [
            messages.ResourceLink(
                str(link.id),
                ResourceName(link.entity_id, link.entity_type),
                microseconds(link.created_at) // 1_000_000,
            )
            for link in links
        ]
        message = counted(len(data), "link", "retrieved")
        body = encode(messages.ResourceLinkList(data, pagination_of(query, total), message))
        return Reply(200, body, next_link(query, [link.id for link in links]))

    async def _key_of_id(self, call: Call) -> LinkKey:
        """Return the key of the link whose id is in the path."""
        link_id = from_text(LINK_PREFIX, call.params["link_id"])
        if link_id is None:
            words = f"has to be a UUID, or {LINK_PREFIX}_ and 26 base32 characters"
            raise invalid_field("link_id", words)
        _ = call.idempotency, call.preconditions  # raises 400 for malformed headers before any 404
        return await find_key(self._database, _document(call), link_id)


def routes(links: Links) -> list[Route]:
    """Return the routes of single links, the most used first."""
    reply, resource_reply = messages.LinkReply, messages.ResourceLinkReply
    write = partial(Endpoint, scope=WRITE, refusals=(NotFound, PreconditionFailed), etag=True)
    make = partial(write, refusals=(NotFound, Conflict, PreconditionFailed))
    link = make(links.link, replies={201: reply, 200: reply})
    link_resource = make(links.link_resource, replies={201: resource_reply, 200: resource_reply})
    list_links = Endpoint(
        links.list_links, scope=READ, replies={200: messages.ResourceLinkList}, refusals=(NotFound,)
    )
    unlink_resource = write(links.unlink_resource, replies={200: messages.UnlinkReply})
    unlink = write(links.unlink, replies={200: messages.UnlinkReply})
    set_role = write(links.set_role, replies={200: messages.RoleReply})
    return [
        Route("/v1/documents/{id}/link", Path(POST=link)),
        Route(
            "/v1/documents/{id}/links",
            Path(POST=link_resource, GET=list_links, DELETE=unlink_resource),
        ),
        Route("/v1/documents/{id}/links/{link_id}", Path(DELETE=unlink, PATCH=set_role)),
    ]


def _document(call: Call) -> DocumentKey:
    return DocumentKey(call.key.workspace_id, call.params["id"])


def _key(call: Call, entity_type: str, entity_id: str) -> LinkKey:
    return LinkKey(_document(call), EntityKey(call.key.workspace_id, entity_type, entity_id))


def _one_change(call: Call, cause: Cause, change: Change, message: MessageOf) -> LinksWrite:
    """Return the write of one change, which is answered with the link as it is afterwards."""

    def respond(outcomes: list[Outcome | Refusal], documents: DocumentStates) -> Reply:
        outcome = outcomes[0]
        if isinstance(outcome, Refusal) or outcome.link is None:
            raise TypeError(outcome)
        status = 201 if outcome.kind == "created" else 200
        revision = documents[change.key.document].revision
        return Reply(status, encode(message(outcome, outcome.link)), revision=revision)

    return LinksWrite(
        caller=call.caller,
        idempotency=call.idempotency,
        cause=cause,
        changes=[change],
        respond=respond,
        preconditions=call.preconditions,
    )


def _shown(link: LinkRow) -> messages.Link:
    document, entity = link.key
    link_id = to_text(LINK_PREFIX, link.id)
    created_at = timestamp(link.created_at)
    return messages.Link(link_id, document.id, entity.type, entity.id, link.role, created_at)


def _link_message(_: Outcome, link: LinkRow) -> messages.LinkReply:
    return messages.LinkReply(_shown(link))


def _role_message(_: Outcome, link: LinkRow) -> messages.RoleReply:
    return messages.RoleReply(_shown(link), "Link updated")


def _resource_link_message(outcome: Outcome, link: LinkRow) -> messages.ResourceLinkReply:
    document, entity = link.key
    shown = messages.LinkedResource(
        str(link.id),
        ResourceName(entity.id, entity.type),
        microseconds(link.created_at) // 1_000_000,
        messages.DocumentName(document.id),
        outcome.kind == "restored",
    )
    return messages.ResourceLinkReply(shown, MESSAGE_OF[outcome.kind])


def _unlink_message(_: Outcome, link: LinkRow) -> messages.UnlinkReply:
    return messages.UnlinkReply(messages.RemovedLink(str(link.id)), "Document unlinked")
