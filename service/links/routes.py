"""The calls under `/v1/documents/{id}/link` and `/links`."""

from uuid import UUID

from msgspec import Struct
from starlette.routing import Route

from service.core.changes import Link, LinkRow, Outcome, Triple, Unlink
from service.core.errors import NotFound, Refusal
from service.core.events import timestamp
from service.core.ids import LINK_PREFIX, from_text, microseconds, to_text
from service.core.requests import Reply
from service.core.resources import ENTITY_TYPES, PREFIXED_TYPES, type_of
from service.edge.call import Call, invalid_field
from service.edge.endpoint import READ, WRITE, Endpoint, Path
from service.edge.messages import Pagination, encode
from service.edge.messages import Resource as ResourceName
from service.edge.pages import counted, read_page, read_query
from service.links import messages
from service.store.database import Database
from service.store.group import GroupWriter
from service.store.links import LinkFilter, find_triple, list_links

MESSAGE_OF = {
    "created": "Document linked",
    "existing": "Already linked",
    "restored": "Link restored",
}


class Links:
    """Handlers of the link calls."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer

    async def link(self, call: Call, body: messages.LinkRequest) -> Reply:
        """Link a document to an entity: 201 for a new link, 200 for one that exists or is restored."""
        triple = Triple(call.key.workspace_id, call.params["id"], body.entity_type, body.entity_id)
        return await self._writer.write(
            call.request("link", [Link(triple, body.role)], _link_reply)
        )

    async def link_resource(self, call: Call, body: messages.ResourceLinkRequest) -> Reply:
        """Link a document to a resource, whose type the prefix of its id tells."""
        entity_type = type_of(body.resource_id)
        if entity_type is None:
            raise invalid_field(
                "resource_id", f"has to be one of {', '.join(PREFIXED_TYPES)} and an id"
            )
        triple = Triple(call.key.workspace_id, call.params["id"], entity_type, body.resource_id)
        return await self._writer.write(call.request("link", [Link(triple)], _resource_link_reply))

    async def unlink(self, call: Call) -> Reply:
        """Remove an active link by its id, in either form."""
        document_id, link_id = call.params["id"], _link_id(call)
        triple = await find_triple(self._database, call.key.workspace_id, document_id, link_id)
        if triple is None:
            raise NotFound(f"document {document_id!r} has no link {call.params['link_id']!r}")
        return await self._writer.write(call.request("unlink", [Unlink(triple)], _unlink_reply))

    async def list_links(self, call: Call) -> Reply:
        """List a document's active links, oldest first."""
        query = read_query(call, ("resource_type", "resource_id", "page", "limit"))
        wanted = LinkFilter(query.get("resource_type"), query.get("resource_id"))
        if wanted.entity_type is not None and wanted.entity_type not in ENTITY_TYPES:
            raise invalid_field("resource_type", f"has to be one of {', '.join(ENTITY_TYPES)}")
        page = read_page(query)
        total, links = await list_links(
            self._database, (call.key.workspace_id, call.params["id"]), wanted, page
        )
        data = [
            messages.ResourceLink(
                str(link.id),
                ResourceName(link.entity_id, link.entity_type),
                int(link.created_at.timestamp()),
            )
            for link in links
        ]
        pagination = Pagination(page.number, page.limit, total)
        message = counted(len(data), "link", "retrieved")
        return Reply(200, encode(messages.ResourceLinkList(data, pagination, message)))


def routes(links: Links) -> list[Route]:
    """Return the routes of this room, the hot one first."""
    reply, resource_reply = messages.LinkReply, messages.ResourceLinkReply
    return [
        Route(
            "/v1/documents/{id}/link",
            Path(
                POST=Endpoint(
                    links.link,
                    scope=WRITE,
                    body=messages.LinkRequest,
                    replies={201: reply, 200: reply},
                )
            ),
        ),
        Route(
            "/v1/documents/{id}/links",
            Path(
                POST=Endpoint(
                    links.link_resource,
                    scope=WRITE,
                    body=messages.ResourceLinkRequest,
                    replies={201: resource_reply, 200: resource_reply},
                ),
                GET=Endpoint(
                    links.list_links, scope=READ, replies={200: messages.ResourceLinkList}
                ),
            ),
        ),
        Route(
            "/v1/documents/{id}/links/{link_id}",
            Path(DELETE=Endpoint(links.unlink, scope=WRITE, replies={200: messages.UnlinkReply})),
        ),
    ]


def _link_id(call: Call) -> UUID:
    link_id = from_text(LINK_PREFIX, call.params["link_id"])
    if link_id is None:
        raise invalid_field(
            "link_id", f"has to be a UUID, or {LINK_PREFIX}_ and 26 base32 characters"
        )
    return link_id


def _done(outcomes: list[Outcome | Refusal]) -> tuple[Outcome, LinkRow]:
    """Return the outcome of a request with one change, which has a link."""
    outcome = outcomes[0]
    if isinstance(outcome, Refusal) or outcome.link is None:
        raise TypeError(outcome)
    return outcome, outcome.link


def _reply(outcome: Outcome, message: Struct) -> Reply:
    return Reply(201 if outcome.kind == "created" else 200, encode(message))


def _link_reply(outcomes: list[Outcome | Refusal]) -> Reply:
    outcome, link = _done(outcomes)
    _, document_id, entity_type, entity_id = link.triple
    shown = messages.Link(
        to_text(LINK_PREFIX, link.id),
        document_id,
        entity_type,
        entity_id,
        link.role,
        timestamp(link.created_at),
    )
    return _reply(outcome, messages.LinkReply(shown))


def _resource_link_reply(outcomes: list[Outcome | Refusal]) -> Reply:
    outcome, link = _done(outcomes)
    _, document_id, entity_type, entity_id = link.triple
    shown = messages.LinkedResource(
        str(link.id),
        ResourceName(entity_id, entity_type),
        microseconds(link.created_at) // 1_000_000,
        messages.DocumentName(document_id),
        outcome.kind == "restored",
    )
    return _reply(outcome, messages.ResourceLinkReply(shown, MESSAGE_OF[outcome.kind]))


def _unlink_reply(outcomes: list[Outcome | Refusal]) -> Reply:
    outcome, link = _done(outcomes)
    return _reply(
        outcome, messages.UnlinkReply(messages.RemovedLink(str(link.id)), "Document unlinked")
    )
