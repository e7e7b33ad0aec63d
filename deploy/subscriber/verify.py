"""Compares the table with the service: each document's links, and each entity's documents."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin
from urllib.request import Request, urlopen

import asyncpg

ROUNDS: Final = 10
"""How often a difference is looked at, a second apart: the table follows the service."""
TIMEOUT_S: Final = 30
NOT_FOUND: Final = 404
RATE_LIMITED: Final = 429
NEXT: Final = re.compile(r'<([^>]*)>; rel="next"')
SHOWN: Final = 20

DOCUMENTS: Final = (
    "SELECT split_part(key, '/', 2) FROM documents WHERE split_part(key, '/', 1) = $1"
)
ENTITIES: Final = """
SELECT DISTINCT entity_type, entity_id FROM links WHERE workspace_id = $1::text::uuid
"""
LINKS: Final = """
SELECT id::text, document_id, entity_type, entity_id, role
FROM links
WHERE workspace_id = $1::text::uuid AND document_id = ANY($2)
"""


class Link(NamedTuple):
    """An active link, as both sides know it."""

    id: str
    document_id: str
    entity_type: str
    entity_id: str
    role: str | None


class ServiceError(Exception):
    """The service cannot be compared with."""


class Service:
    """The service's lists, with the key of a workspace."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = {"X-API-KEY": key}

    def document(self, document: str) -> set[Link]:
        """Return the active links of a document; none if it is deleted."""
        shown = [page["data"] for page in self._pages(f"/v1/documents/{document}")]
        return {
            Link(each["link_id"], document, each["entity_type"], each["entity_id"], each["role"])
            for each in (shown[0]["linked_entities"] if shown else [])
        }

    def documents_of(self, entity_type: str, entity_id: str) -> set[str]:
        """Return the documents that are linked to an entity."""
        path = f"/v1/entities/{entity_type}/{quote(entity_id)}/documents?limit=100"
        return {each["id"] for page in self._pages(path) for each in page["data"]}

    def _pages(self, path: str) -> Iterator[Any]:
        """Yield the answer and the pages after it; nothing if the answer is 404."""
        url: str | None = self._url.rstrip("/") + path
        while url:
            try:
                with urlopen(Request(url, headers=self._headers), timeout=TIMEOUT_S) as answer:  # noqa: S310 - the operator's URL
                    yield json.load(answer)
                    following = NEXT.search(answer.headers.get("Link", ""))
                    url = urljoin(url, following[1]) if following else None
            except HTTPError as error:
                if error.code == NOT_FOUND:
                    return
                if error.code != RATE_LIMITED:
                    raise ServiceError(f"{url} was answered {error.code} {error.reason}") from error
                time.sleep(int(error.headers["Retry-After"]))
            except (URLError, TimeoutError) as error:
                raise ServiceError(f"{url} is not answered: {error}") from error


async def compare(db: asyncpg.Connection, workspace: str, url: str, key: str) -> None:
    """Compare the links of a workspace, and print the result.

    SystemExit: there are differences, or the table has no document of the workspace (exit code 1).
    """
    service = Service(url, key)
    known = {row[0] for row in await db.fetch(DOCUMENTS, workspace)}
    if not known:
        raise SystemExit(f"the table has no document of the workspace {workspace}")
    for entity in await db.fetch(ENTITIES, workspace):
        known |= await asyncio.to_thread(service.documents_of, *entity)
    differing, lines = known, list[str]()
    for _ in range(ROUNDS):
        differing, lines = await _differences(db, service, workspace, differing)
        if not differing:
            print(f"the links of {len(known)} documents are those of the service")  # noqa: T201 - its result
            return
        await asyncio.sleep(1)
    raise SystemExit(
        "\n".join([f"{len(differing)} documents differ from the service", *lines[:SHOWN]])
    )


async def _differences(
    db: asyncpg.Connection, service: Service, workspace: str, documents: set[str]
) -> tuple[set[str], list[str]]:
    """Return the documents whose links differ, and a line for each difference."""
    rows = await db.fetch(LINKS, workspace, list(documents))
    ours = {Link(*row) for row in rows}
    theirs: set[Link] = set()
    for document in documents:
        theirs |= await asyncio.to_thread(service.document, document)
    lines = [f"not in the table: {each}" for each in sorted(theirs - ours, key=str)]
    lines += [f"not in the service: {each}" for each in sorted(ours - theirs, key=str)]
    return {each.document_id for each in ours ^ theirs}, lines
