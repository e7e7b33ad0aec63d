"""The paths that describe the service: `/openapi.json`, `/asyncapi.json`, `/schemas`, `/docs`, `/`."""

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

from service.core.errors import NotFound
from service.core.writes import Reply
from service.described import page
from service.described.asyncapi import asyncapi
from service.described.cached import JSON, SCHEMA, CachedResponse, cached_json
from service.described.events import EVENT_TYPES, event_schema
from service.described.events_page import events_page
from service.described.openapi import openapi
from service.described.root import root
from service.described.schemas import Schema
from service.described.snapshots import MARKER_TYPES, marker_schema
from service.edge.calls.call import Call
from service.edge.calls.endpoint import Endpoint, Path


class Described:
    """Handlers of these paths."""

    def __init__(self) -> None:
        self.openapi_document: CachedResponse
        events = asyncapi()
        self._asyncapi = cached_json(events)
        self._events = page.events(events_page(events))
        schemas: dict[str, Schema] = {name: event_schema(name) for name in EVENT_TYPES}
        schemas |= {name: marker_schema(name) for name in MARKER_TYPES}
        self._schemas = {name: cached_json(schema, SCHEMA) for name, schema in schemas.items()}
        self._page = page.page()
        self._files = page.files()

    async def openapi(self, call: Call) -> Reply:
        """Describe the API, as an OpenAPI 3.1 document."""
        return self.openapi_document.reply(call)

    async def asyncapi(self, call: Call) -> Reply:
        """Describe the topic and its events, as an AsyncAPI 3 document."""
        return self._asyncapi.reply(call)

    async def schema(self, call: Call) -> Reply:
        """Give the JSON Schema of an event type."""
        name = call.params["event_type"]
        if name not in self._schemas:
            raise NotFound(f"there is no event type {name!r}: there are {', '.join(self._schemas)}")
        return self._schemas[name].reply(call)

    async def docs(self, call: Call) -> Reply:
        """Show a page on which to read and try the API."""
        return self._page.reply(call)

    async def events(self, call: Call) -> Reply:
        """Show the topic and its events on a page: fields, examples, and how to read exactly once."""
        return self._events.reply(call)

    async def file(self, call: Call) -> Reply:
        """Give a file of the page."""
        name = call.params["name"]
        if name not in self._files:
            raise NotFound(f"the page has no file {name!r}")
        return self._files[name].reply(call)


def routes(others: Sequence[BaseRoute]) -> list[Route]:
    """Return the routes of this package. The OpenAPI document describes these and the other routes."""
    described = Described()
    schema = Endpoint(described.schema, replies={200: SCHEMA, 304: None}, refusals=(NotFound,))
    documents = {
        "/openapi.json": Endpoint(described.openapi, replies={200: JSON, 304: None}),
        "/asyncapi.json": Endpoint(described.asyncapi, replies={200: JSON, 304: None}),
        "/schemas/{event_type}.json": schema,
        "/docs": Endpoint(described.docs, replies={200: "text/html", 304: None}),
        "/docs/events": Endpoint(described.events, replies={200: "text/html", 304: None}),
    }
    file = Path(GET=Endpoint(described.file, replies={}))
    own = [Route(path, Path(GET=endpoint)) for path, endpoint in documents.items()]
    own.append(Route("/docs/{name}", file, include_in_schema=False))
    own.append(Route("/", Path(GET=Endpoint(root, replies={})), include_in_schema=False))
    described.openapi_document = cached_json(openapi([*others, *own]))
    return own
