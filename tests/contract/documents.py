"""The service's descriptions of its API and events: made now, as committed, and of the last release."""

import json
from pathlib import Path
from typing import Any, Final

import httpx

from service.app import build
from service.described.events import EVENT_TYPES
from service.described.snapshots import MARKER_TYPES
from service.settings import read_settings
from tests.contract.compatibility import OpenApiChange, event_breaks
from tests.support.releases.history import TOP, files_of_last_release

PUBLISHED: Final = Path(__file__).with_name("published")
PATHS: Final = {
    "openapi.json": "/openapi.json",
    "asyncapi.json": "/asyncapi.json",
    **{f"{name}.json": f"/schemas/{name}.json" for name in (*EVENT_TYPES, *MARKER_TYPES)},
}
"""The path under which the service serves each file."""


async def made_now() -> dict[str, bytes]:
    """Return the files that the service makes now. It needs no database for them."""
    app = build(read_settings({"DATABASE_URL": "postgresql://nowhere"}))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return {name: (await client.get(path)).content + b"\n" for name, path in PATHS.items()}


def published() -> dict[str, bytes]:
    """Return the committed files, which the next release publishes."""
    return {path.name: path.read_bytes() for path in sorted(PUBLISHED.glob("*.json"))}


def released() -> dict[str, bytes]:
    """Return the files that the last release published, from the repository's history."""
    folder = PUBLISHED.relative_to(TOP).as_posix()
    return {Path(path).name: content for path, content in files_of_last_release(folder).items()}


def breaks(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Return all breaks for callers and subscribers. The AsyncAPI document repeats the event schemas."""
    found = [f"{name}: is gone" for name in before if name not in after]
    for name in before.keys() & after.keys() - {"asyncapi.json"}:
        old: dict[str, Any] = json.loads(before[name])
        new: dict[str, Any] = json.loads(after[name])
        found += (
            OpenApiChange(old, new).breaks() if name == "openapi.json" else event_breaks(old, new)
        )
    return found
