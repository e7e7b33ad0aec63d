"""Examples in the documents: instances of the message structs."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from service.core.events import DATASCHEMA_OF, Event, EventData, EventLink, EventResource
from service.documents import lists
from service.documents import messages as documents
from service.edge.calls.problems import CODES, EdgeError, FieldError, Problem, problem
from service.edge.shapes.messages import Pagination, Resource
from service.entities.routes import EntityReply
from service.links import batch
from service.links import messages as links
from service.operations import Health
from service.release import VERSION

REQUEST_ID: Final = "req_01K94V7RZ7N0A9M3T8Q4E2C6BX"
WORKSPACE: Final = "0193e6c4-0000-7000-8000-000000000001"
LINK_ID: Final = "019696c6-4b3a-7e1d-b9a2-3f8c1d0e5a72"
TIME: Final = "2026-04-17T10:55:00.000000Z"

_SHIPMENT: Final = Resource("ship_abc123", "shipment")
_LINK: Final = links.Link(
    "dlnk_01HY1", "doc_01HY1", "deal", "deal_01HY1", "signed", "2026-04-17T10:55:00Z"
)
_EVENT_LINK: Final = EventLink(
    LINK_ID, EventResource("ship_abc123", "shipment"), "signed", TIME, None
)
_DOCUMENT: Final = documents.Document(
    id="doc_01HY1",
    display_name="Bill of lading",
    category="shipping",
    metadata={"pages": 3},
    created_at=TIME,
    updated_at=TIME,
    linked_entities=[
        documents.LinkedEntity(LINK_ID, "shipment", "ship_abc123", "signed", TIME),
    ],
    linkages={"shipment": 1},
)


def _resource_link(message: str, *, restored: bool) -> links.ResourceLinkReply:
    document = links.DocumentName("dcmt_01j9abc123")
    data = links.LinkedResource(LINK_ID, _SHIPMENT, 1747094400, document, restored)
    return links.ResourceLinkReply(data, message)


_REFUSED: Final = Problem(
    "urn:document-links:problem:not_found",
    "Not Found",
    404,
    "document 'doc_2' does not exist",
    "not_found",
    REQUEST_ID,
)

_EXAMPLES: Final[tuple[tuple[str, Struct], ...]] = (
    ("example", links.LinkRequest("deal", "deal_01HY1", "signed")),
    ("example", links.LinkReply(_LINK)),
    ("example", links.RoleRequest("evidence")),
    ("example", links.RoleReply(msgspec.structs.replace(_LINK, role="evidence"), "Link updated")),
    ("example", links.ResourceLinkRequest("ship_abc123")),
    ("new", _resource_link("Document linked", restored=False)),
    ("active", _resource_link("Already linked", restored=False)),
    ("restored", _resource_link("Link restored", restored=True)),
    (
        "example",
        links.ResourceLinkList(
            [links.ResourceLink(LINK_ID, _SHIPMENT, 1747094400)],
            Pagination(1, 25, 1),
            "1 link retrieved",
        ),
    ),
    ("example", links.UnlinkReply(links.RemovedLink(LINK_ID), "Document unlinked")),
    (
        "example",
        batch.BatchRequest(
            [
                batch.Operation("link", "doc_01HY1", resource_id="ship_abc123"),
                batch.Operation("unlink", "doc_2", entity_type="deal", entity_id="deal_01HY1"),
            ]
        ),
    ),
    (
        "example",
        batch.BatchReply(
            [
                batch.OperationOutcome(0, 201, _EVENT_LINK, restored=False),
                batch.OperationOutcome(1, 404, problem=_REFUSED),
            ],
            "1 of 2 operations applied",
        ),
    ),
    (
        "example",
        documents.PutDocument(
            display_name="Bill of lading",
            category="shipping",
            metadata=msgspec.Raw(b'{"pages": 3}'),
            resources=["ship_abc123", documents.EntityItem("deal", "deal_01HY1", "signed")],
        ),
    ),
    (
        "change",
        documents.UpdateDocument(
            display_name="Bill of lading, signed",
            resources=documents.Edits(add=["ship_abc123", "ful_def456"], remove=["ast_xyz789"]),
        ),
    ),
    ("set", documents.UpdateDocument(resources=documents.Edits(set=["ship_abc123"]))),
    ("example", documents.DocumentReply(_DOCUMENT, "Document retrieved")),
    (
        "example",
        documents.ChangedDocumentReply(
            _DOCUMENT, documents.LinkChanges([LINK_ID], [], [], []), "Document updated"
        ),
    ),
    (
        "example",
        documents.DeleteDocumentReply(documents.RemovedDocument("doc_01HY1"), "Document deleted"),
    ),
    (
        "example",
        lists.DocumentList(
            [
                lists.LinkedDocument(
                    "doc_01HY1", "Bill of lading", lists.DocumentLink(LINK_ID, "signed", TIME)
                )
            ],
            Pagination(1, 25, 1),
            "1 document retrieved",
        ),
    ),
    ("example", EntityReply(Resource("deal_01HY1", "deal"), "Entity registered")),
    ("example", Health("ok", VERSION)),
)

EVENT: Final[dict[str, Any]] = msgspec.to_builtins(
    Event(
        specversion="1.0",
        id="01963f2c-3c20-7c1f-8a51-6b1f7f0f7d11",
        source=f"/workspaces/{WORKSPACE}",
        type="document.linked",
        subject="doc_01HY1",
        time=TIME,
        datacontenttype="application/json",
        dataschema=DATASCHEMA_OF["document.linked"],
        partitionkey=f"{WORKSPACE}/doc_01HY1",
        sequence=f"{42:020d}",
        data=EventData(
            WORKSPACE, "doc_01HY1", 42, _EVENT_LINK, None, "link", "key_01HY1", REQUEST_ID
        ),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
)


def examples_of(shape: type[Struct]) -> dict[str, dict[str, Any]]:
    """Return the examples of a message, by name, in OpenAPI's form."""
    return {
        name: {"value": msgspec.json.decode(msgspec.json.encode(example))}
        for name, example in _EXAMPLES
        if type(example) is shape
    }


def problem_example(code: str) -> dict[str, Any]:
    """Return the problem that a caller would receive."""
    example = CODES[code].example
    field, _, message = example.partition(": ")
    errors = [FieldError(field, message)] if code == "validation_error" else []
    shown: dict[str, Any] = msgspec.to_builtins(
        problem(EdgeError(code, example, errors=errors), REQUEST_ID)
    )
    return shown
