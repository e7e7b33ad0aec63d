"""The calls of the mix: each call that the service describes, on a world of fixed size."""

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

DOCUMENTS: Final = 1000
ENTITIES: Final = 200
"""The number of deals, and of shipments."""
LINKS: Final = 10
"""The links of each document, half of them to deals. The mix removes and restores them."""
VOLATILE: Final = 50
"""The number of documents that are deleted, restored and replaced. The others are always there."""
VOLATILE_ENTITIES: Final = 5
"""The number of shipments that are deleted and revived."""
BATCH: Final = 20
PAGES: Final = (
    "/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json", "/docs", "/docs/events",
)  # fmt: skip


class Request(NamedTuple):
    """A request without its key."""

    method: str
    path: str
    body: object = None
    headers: tuple[str, ...] = ()
    """Whole header lines."""


class World:
    """What the calls are about. `link_ids` has the ids of each document's links, which never change."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.link_ids: dict[int, list[str]] = {}
        self._keyed: Request | None = None
        self._keys = 0

    def document(self) -> int:
        """Return the number of a document."""
        return self.random.randint(1, DOCUMENTS)

    def volatile(self) -> int:
        """Return the number of a document that may be deleted."""
        return self.random.randint(1, VOLATILE)

    def place(self) -> int:
        """Return the place of a link in `entities_of`."""
        return self.random.randrange(LINKS)

    def link(self) -> tuple[int, str]:
        """Return the number of a document, and the id of one of its links."""
        document = self.document()
        return document, self.random.choice(self.link_ids[document])

    def keyed(self) -> Request:
        """Return a request with an Idempotency-Key: each of them twice."""
        request, self._keyed = self._keyed, None
        if request is None:
            self._keys += 1
            headers = (f"Idempotency-Key: soak-{self._keys}",)
            request = self._keyed = link_deal(self)._replace(headers=headers)
        return request


def entities_of(document: int) -> list[tuple[str, str]]:
    """Return the type and id of each entity to which a document can be linked."""
    numbers = [1 + (document * 7 + place * 13) % ENTITIES for place in range(LINKS)]
    return [
        ("shipment", f"ship_{number}") if place % 2 else ("deal", f"deal_{number}")
        for place, number in enumerate(numbers)
    ]


def entities() -> Iterator[Request]:
    """Yield the requests that make the entities."""
    for number in range(1, ENTITIES + 1):
        yield Request("PUT", f"/v1/entities/deal/deal_{number}")
        yield Request("PUT", f"/v1/entities/shipment/ship_{number}")


def put_document(document: int) -> Request:
    """Make a document with all its links, or replace it."""
    resources = [{"entity_type": kind, "entity_id": id_} for kind, id_ in entities_of(document)]
    body = {"display_name": f"Contract {document}", "category": "legal", "resources": resources}
    return Request("PUT", _path(document), body)


def link_deal(world: World) -> Request:
    """Link a deal by its type and id."""
    document = world.document()
    kind, id_ = entities_of(document)[world.place() & ~1]
    body = {"entity_type": kind, "entity_id": id_, "role": "signed"}
    return Request("POST", f"{_path(document)}/link", body)


def _link_shipment(world: World) -> Request:
    document = world.document()
    return Request("POST", f"{_path(document)}/links", {"resource_id": _shipment(world, document)})


def _unlink_shipment(world: World) -> Request:
    document = world.document()
    return Request("DELETE", f"{_path(document)}/links?resource_id={_shipment(world, document)}")


def _unlink_by_id(world: World) -> Request:
    document, link = world.link()
    return Request("DELETE", f"{_path(document)}/links/{link}")


def _change_role(world: World) -> Request:
    document, link = world.link()
    role = world.random.choice(["signed", "draft", None])
    return Request("PATCH", f"{_path(document)}/links/{link}", {"role": role})


def _update(world: World) -> Request:
    document = world.document()
    chosen = [{"entity_type": kind, "entity_id": id_} for kind, id_ in entities_of(document)]
    world.random.shuffle(chosen)
    resources = {"add": chosen[:3], "remove": chosen[3:4]}
    body = {"metadata": {"step": world.random.randrange(1000)}, "resources": resources}
    return Request("POST", _path(document), body)


def _update_if_match(world: World) -> Request:
    headers = (f'If-Match: "{world.random.randint(1, 50)}"',)
    return Request("POST", _path(world.document()), {"category": "sales"}, headers)


def _batch(world: World) -> Request:
    operations = [_operation(world) for _ in range(BATCH)]
    return Request("POST", "/v1/links/batch", {"operations": operations})


def _operation(world: World) -> dict[str, Any]:
    document = world.document()
    kind, id_ = entities_of(document)[world.place()]
    operation = world.random.choice(["link", "link", "unlink"])
    name = f"doc_{document}"
    return {"op": operation, "document_id": name, "entity_type": kind, "entity_id": id_}


def _documents_of(world: World) -> Request:
    number = world.random.randint(1, ENTITIES)
    return Request("GET", f"/v1/documents?resource_type=deal&resource_id=deal_{number}&limit=50")


def _documents_of_entity(world: World) -> Request:
    number = world.random.randint(1, ENTITIES)
    return Request("GET", f"/v1/entities/deal/deal_{number}/documents?role=signed")


def _schema(world: World) -> Request:
    kind = world.random.choice(["linked", "unlinked", "restored", "link_updated"])
    return Request("GET", f"/schemas/document.{kind}.json")


def _page(path: str, _: World) -> Request:
    return Request("GET", path)


def _entity(world: World) -> str:
    return f"/v1/entities/shipment/ship_{world.random.randint(1, VOLATILE_ENTITIES)}"


def _shipment(world: World, document: int) -> str:
    return entities_of(document)[world.place() | 1][1]


def _path(document: int) -> str:
    return f"/v1/documents/doc_{document}"


class Kind(NamedTuple):
    """A call: its operation in the OpenAPI document, its weight, and the statuses that it may have."""

    operation: str
    weight: int
    expected: frozenset[int]
    make: Callable[[World], Request]


def _kind(
    operation: str, weight: int, statuses: set[int], make: Callable[[World], Request]
) -> Kind:
    return Kind(operation, weight, frozenset(statuses), make)


DOCUMENT: Final = "/v1/documents/{id}"
ENTITY: Final = "/v1/entities/{type}/{entity_id}"
NEW: Final = {200, 201, 404}  # 404: the document or the entity is deleted at this moment
THERE: Final = {200, 404}
KINDS: Final = (
    _kind(f"POST {DOCUMENT}/link", 120, NEW, link_deal),
    _kind(f"POST {DOCUMENT}/link", 20, NEW, World.keyed),
    _kind(f"POST {DOCUMENT}/links", 120, NEW, _link_shipment),
    _kind(f"GET {DOCUMENT}/links", 200, THERE, lambda w: Request("GET", f"{_path(w.document())}/links")),
    _kind(f"DELETE {DOCUMENT}/links", 80, THERE, _unlink_shipment),
    _kind(f"DELETE {DOCUMENT}/links/{{link_id}}", 80, THERE, _unlink_by_id),
    _kind(f"PATCH {DOCUMENT}/links/{{link_id}}", 40, THERE, _change_role),
    _kind(f"GET {DOCUMENT}", 100, THERE, lambda w: Request("GET", _path(w.document()))),
    _kind(f"POST {DOCUMENT}", 50, THERE, _update),
    _kind(f"POST {DOCUMENT}", 10, THERE | {412}, _update_if_match),
    _kind(f"PUT {DOCUMENT}", 10, {200, 201, 404}, lambda w: put_document(w.volatile())),
    _kind(f"DELETE {DOCUMENT}", 5, THERE, lambda w: Request("DELETE", _path(w.volatile()))),
    _kind(f"POST {DOCUMENT}/restore", 10, THERE,
          lambda w: Request("POST", f"{_path(w.volatile())}/restore")),
    _kind("POST /v1/documents", 1, {201}, lambda _: Request("POST", "/v1/documents", {})),
    _kind("GET /v1/documents", 40, {200}, _documents_of),
    _kind("POST /v1/links/batch", 10, {200}, _batch),
    _kind(f"PUT {ENTITY}", 4, {200, 201}, lambda w: Request("PUT", _entity(w))),
    _kind(f"DELETE {ENTITY}", 2, THERE, lambda w: Request("DELETE", _entity(w))),
    _kind(f"GET {ENTITY}/documents", 40, THERE, _documents_of_entity),
    _kind("GET /schemas/{event_type}.json", 1, {200}, _schema),
    *(_kind(f"GET {page}", 2, {200}, partial(_page, page)) for page in PAGES),
)  # fmt: skip
"""About half of the calls read. PUT of a document has 404 while one of its entities is deleted."""
WEIGHTS: Final = [kind.weight for kind in KINDS]


def choose(world: World) -> tuple[Kind, Request]:
    """Return a random call of the mix."""
    (kind,) = world.random.choices(KINDS, WEIGHTS)
    return kind, kind.make(world)


def encode(request: Request, host: str, key: str) -> bytes:
    """Return the request as it is sent (HTTP/1.1)."""
    body = b"" if request.body is None else json.dumps(request.body).encode()
    lines = [
        f"{request.method} {request.path} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {key}",
        *request.headers,
        *([] if request.body is None else ["Content-Type: application/json"]),
        *([] if request.method == "GET" else [f"Content-Length: {len(body)}"]),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
