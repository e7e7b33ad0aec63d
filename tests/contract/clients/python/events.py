"""Reads the events on standard input, one a line, with the models that datamodel-code-generator has made."""

import json
import sys

from models import (
    DocumentLinkedPayload,
    DocumentLinkUpdatedPayload,
    DocumentRestoredPayload,
    DocumentUnlinkedPayload,
    SnapshotBeganPayload,
    SnapshotEndedPayload,
)

LinkEvent = (
    DocumentLinkedPayload
    | DocumentUnlinkedPayload
    | DocumentRestoredPayload
    | DocumentLinkUpdatedPayload
)
EVENTS: dict[str, type[LinkEvent]] = {
    "document.linked": DocumentLinkedPayload,
    "document.unlinked": DocumentUnlinkedPayload,
    "document.restored": DocumentRestoredPayload,
    "document.link_updated": DocumentLinkUpdatedPayload,
}

for line in sys.stdin:
    kind = json.loads(line)["type"]
    if kind == "snapshot.began":
        began = SnapshotBeganPayload.model_validate_json(line)
        print(began.type, began.data.partition, *began.data.continue_from)
    elif kind == "snapshot.ended":
        ended = SnapshotEndedPayload.model_validate_json(line)
        print(ended.type, ended.data.partition, ended.data.links)
    else:
        event = EVENTS[kind].model_validate_json(line)
        link = event.data.link
        previous = event.data.previous.role if event.data.previous else None
        print(event.type, event.data.document_version, link.resource.id, link.role, "was", previous)
