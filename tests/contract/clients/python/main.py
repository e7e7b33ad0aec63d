"""The main job with the client that openapi-python-client has generated as the package `links`."""

import os
import sys
import time
from typing import TypeVar

from links.api.documents import (
    documents_create,
    documents_delete,
    documents_put,
    documents_read,
    documents_restore,
    documents_update,
)
from links.api.entities import entities_put
from links.api.links import (
    batch_apply,
    links_link,
    links_link_resource,
    links_list_links,
    links_set_role,
    links_unlink,
    links_unlink_resource,
)
from links.client import AuthenticatedClient
from links.models import (
    BatchRequest,
    Edits,
    EntityItem,
    EntityType,
    LinkRequest,
    LinkRequestEntityType,
    Metadata,
    Operation,
    OperationOp,
    Problem,
    PutDocument,
    ResourceLinkRequest,
    RoleRequest,
    UpdateDocument,
)
from links.types import UNSET, Response

T = TypeVar("T")
DOC = "doc_1"
DAY_S = 86400


def client(key: str) -> AuthenticatedClient:
    return AuthenticatedClient(os.environ["URL"], token=os.environ[key])


def body(response: Response[T | Problem]) -> T:
    """Return the body of a success."""
    if response.parsed is None or isinstance(response.parsed, Problem):
        sys.exit(f"{response.status_code}: {response.content!r}")
    return response.parsed


def refused(response: Response[T | Problem]) -> None:
    """Show the status and the code of a problem, with all wrong fields."""
    problem = response.parsed
    if not isinstance(problem, Problem):
        sys.exit(f"{response.status_code}: {response.content!r}")
    fields = [error.field for error in problem.errors or []]
    print("refused", response.status_code.value, problem.code, *fields)


api = client("KEY")

for kind, entity in [
    ("deal", "deal_1"),
    ("deal", "deal_2"),
    ("shipment", "ship_1"),
    ("shipment", "ship_2"),
    ("shipment", "ship_3"),
]:
    entities = entities_put.sync_detailed(EntityType(kind), entity, client=api)
    print("entity", entities.status_code.value, body(entities).data.id)

metadata = Metadata.from_dict({"pages": 3})
made = documents_create.sync_detailed(
    client=api, body=PutDocument(id=DOC, display_name="Contract", metadata=metadata)
)
kept = body(made).data.metadata
print(
    "create", made.status_code.value, body(made).data.display_name, kept["pages"] if kept else None
)

for _ in range(2):
    asked = LinkRequest(LinkRequestEntityType.DEAL, "deal_1", "signed")
    linked = links_link.sync_detailed(DOC, client=api, body=asked)
    print("link", linked.status_code.value, body(linked).data.role, linked.headers["ETag"])
for entity in ("ship_1", "ship_2", "ship_3"):
    resource = links_link_resource.sync_detailed(DOC, client=api, body=ResourceLinkRequest(entity))
    print(
        "resource",
        resource.status_code.value,
        body(resource).data.resource.type_,
        body(resource).message,
    )

page, seen, total = 1, 0, 1
while seen < total:
    listed = body(links_list_links.sync_detailed(DOC, client=api, page=page, limit=3))
    page, seen, total = page + 1, seen + len(listed.data), listed.pagination.total
    print("page", total, *(link.resource.id for link in listed.data))
cursor: str | None = ""
while cursor is not None:
    part = links_list_links.sync_detailed(DOC, client=api, limit=3, cursor=cursor or UNSET)
    print("cursor", *(link.resource.id for link in body(part).data))
    cursor = part.headers.get("Next-Cursor")

put = documents_put.sync_detailed(DOC, client=api, body=PutDocument(display_name="renamed"))
print("put", body(put).data.display_name, len(body(put).data.linked_entities))
update = documents_update.sync_detailed(DOC, client=api, body=UpdateDocument(category="legal"))
print(
    "update",
    body(update).data.display_name,
    body(update).data.category,
    len(body(update).data.linked_entities),
)
update = documents_update.sync_detailed(DOC, client=api, body=UpdateDocument(resources=Edits()))
print("no edits", len(body(update).data.linked_entities))
edits = Edits(add=[EntityItem(EntityType.DEAL, "deal_2")], remove=["ship_3"])
update = documents_update.sync_detailed(
    DOC, client=api, body=UpdateDocument(category=None, resources=edits)
)
changes = body(update).changes
print("edits", body(update).data.category or "none", len(changes.linked), len(changes.unlinked))

role = body(
    links_set_role.sync_detailed(
        DOC, body(linked).data.link_id, client=api, body=RoleRequest("evidence")
    )
)
print("role", role.data.role)
role = body(
    links_set_role.sync_detailed(DOC, body(linked).data.link_id, client=api, body=RoleRequest(None))
)
print("role", role.data.role or "none")
unlinked = links_unlink.sync_detailed(DOC, body(linked).data.link_id, client=api)
print("unlink", body(unlinked).message, unlinked.headers["ETag"])
print(
    "unlink",
    body(links_unlink_resource.sync_detailed(DOC, client=api, resource_id="ship_2")).message,
)
print(
    "again",
    body(
        links_link_resource.sync_detailed(DOC, client=api, body=ResourceLinkRequest("ship_2"))
    ).message,
)

print("delete", body(documents_delete.sync_detailed(DOC, client=api)).data.id)
print("restore", len(body(documents_restore.sync_detailed(DOC, client=api)).data.linked_entities))

operations = [
    Operation(OperationOp.LINK, DOC, resource_id="ship_3"),
    Operation(OperationOp.LINK, DOC, entity_type=EntityType.DEAL, entity_id="deal_9"),
]
for outcome in body(batch_apply.sync_detailed(client=api, body=BatchRequest(operations))).data:
    shown = outcome.link.resource.id if outcome.link else None
    print("batch", outcome.status, outcome.problem.code if outcome.problem else shown)

once = UpdateDocument(display_name="once")
for _ in range(2):
    first = documents_update.sync_detailed(DOC, client=api, body=once, idempotency_key="key-1")
    print("once", first.status_code.value, first.headers.get("Idempotent-Replayed", "new"))
tag = documents_read.sync_detailed(DOC, client=api).headers["ETag"]
matched = documents_update.sync_detailed(
    DOC, client=api, body=UpdateDocument(category="a"), if_match=tag
)
print("match", matched.status_code.value)

refused(
    links_link.sync_detailed(
        DOC, client=api, body=LinkRequest(LinkRequestEntityType.DEAL, "deal_1", "x" * 65)
    )
)
refused(
    documents_read.sync_detailed(
        DOC, client=AuthenticatedClient(os.environ["URL"], token="wbk_unknown")
    )
)
refused(documents_delete.sync_detailed(DOC, client=client("READ_KEY")))
refused(documents_read.sync_detailed("doc_9", client=api))
refused(documents_create.sync_detailed(client=api, body=PutDocument(id=DOC)))
refused(documents_update.sync_detailed(DOC, client=api, body=once, if_match=tag))
large = Metadata.from_dict({"text": "x" * 1_100_000})
refused(documents_update.sync_detailed(DOC, client=api, body=UpdateDocument(metadata=large)))
refused(
    documents_update.sync_detailed(DOC, client=api, body=UpdateDocument(), idempotency_key="key-1")
)
slow = client("SLOW_KEY")
body(documents_read.sync_detailed(DOC, client=slow))
limited = documents_read.sync_detailed(DOC, client=slow)
refused(limited)
wait = limited.headers["Retry-After"]
print(
    "limit",
    limited.headers["X-RateLimit-Limit"],
    limited.headers["X-RateLimit-Remaining"],
    int(limited.headers["X-RateLimit-Reset"]) > time.time() and "reset",
    limited.headers["RateLimit-Policy"],
    limited.headers["RateLimit"].replace(f"t={wait}", "t=wait"),
    0 < int(wait) <= DAY_S and "wait",
)
