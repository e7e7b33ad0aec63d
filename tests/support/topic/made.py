"""Records of the topic that a test makes, for the subscriber of deploy/subscriber."""

import json
from typing import Any, NamedTuple
from uuid import UUID

from service.described.events import example
from service.described.snapshots import marker_example

WORKSPACE = "0193e6c4-0000-7000-8000-000000000001"
TOPIC = "document-links"
SNAPSHOT = "0d5a3e9c-4c55-4f0e-9a53-0c8c1e1f4a0b"


class Made(NamedTuple):
    """What the subscriber reads of a consumer's record."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def event(
    version: int, kind: str = "linked", link: int = 1, document: str = "doc_1"
) -> dict[str, Any]:
    """Return an event of a document about its link of that number."""
    made = example(f"document.{kind}")  # type: ignore[arg-type] # one of the four
    made["partitionkey"] = f"{WORKSPACE}/{document}"
    made["subject"] = document
    data = made["data"]
    data |= {"workspace_id": WORKSPACE, "document_id": document, "document_version": version}
    data["link"]["id"] = str(UUID(int=link))
    return made


def marker(kind: str, links: int = 0, snapshot: str = SNAPSHOT) -> dict[str, Any]:
    """Return a marker of a snapshot."""
    made = marker_example(f"snapshot.{kind}")  # type: ignore[arg-type] # one of the two
    made["data"]["snapshot_id"] = snapshot
    if kind == "ended":
        made["data"]["links"] = links
    return made


def record(offset: int, made: dict[str, Any], topic: str = TOPIC, **headers: str) -> Made:
    """Return the record of an event or of a marker, in partition 0."""
    named = tuple((name.replace("_", "-"), value.encode()) for name, value in headers.items())
    return Made(topic, 0, offset, made["partitionkey"].encode(), json.dumps(made).encode(), named)
