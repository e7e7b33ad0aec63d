"""The limits in the README are those of the code."""

from pathlib import Path

import msgspec
import pytest

from outbox_worker.operator.verify import MAX_EVENTS
from service.core.values import MAX_LINKS, DocumentKey
from service.described.words import API
from service.documents.messages import PutDocument
from service.documents.routes import wanted_links
from service.edge.calls import body, stored_json, validation
from service.edge.calls.places import LONG_CALLS, LONG_S, PLACES, WAIT_S
from service.edge.calls.problems import EdgeError
from service.edge.shapes import pages
from service.links.batch import MAX_OPERATIONS, BatchRequest
from service.server.refusals import MAX_BODY_BYTES, MAX_HEAD_BYTES
from service.store.reading import MAX_METADATA_BYTES
from service.store.writing.cascade import CASCADE_CHUNK

README = (Path(__file__).parents[3] / "README.md").read_text()

ROWS = [
    f"| active links of a document | {MAX_LINKS:,} |",
    f"| items in `resources`, `set`, `add` or `remove` | {MAX_LINKS:,} |",
    f"| operations in a batch | {MAX_OPERATIONS} |",
    f"| body | {body.MAX_BYTES >> 20} MiB |",
    f"| body with its chunk sizes, chunk extensions and trailers | {MAX_BODY_BYTES >> 20} MiB |",
    f"| names and texts of a body outside `metadata` | {body.MAX_TEXTS:,} |",
    f"| request line and headers | {MAX_HEAD_BYTES >> 10} KiB |",
    f"| levels of `metadata` | {stored_json.MAX_DEPTH} |",
    f"| objects and lists in `metadata` | {stored_json.MAX_CONTAINERS:,} |",
    f"| digits of a number in `metadata` | {stored_json.MAX_DIGITS:,} |",
    f"| bytes of `metadata` with its numbers written out | {MAX_METADATA_BYTES >> 20} MiB |",
    f"| parameters in a query | {body.MAX_PARAMETERS} |",
    f"| items on a page | {pages.MAX_LIMIT} |",
    f"| items before a page that is requested by its number | {pages.MAX_OFFSET:,} |",
    f"| calls on which a process works at once | {PLACES}, and {LONG_CALLS} that have taken more",
    f"that have taken more than {LONG_S} s | further calls",
    f"| further calls wait for at most {WAIT_S:g} s, then 503 |",
    f"| errors named in one answer | {validation.MAX_ERRORS} |",
    f"more than {validation.MAX_SEARCHED:,} values only the first",
    f"unlinks {CASCADE_CHUNK} documents a transaction",
    f"holds {MAX_EVENTS:,} events in memory",
]


@pytest.mark.parametrize("row", ROWS)
def test_readme_names_the_bound(row: str) -> None:
    """Each number in the README's table is that of the code."""
    assert row in README


def test_description_of_the_api_names_the_bounds() -> None:
    """The limits for callers are in the OpenAPI document."""
    for bound in (MAX_LINKS, pages.MAX_OFFSET, MAX_OPERATIONS):
        assert f"{bound:,}" in API


def test_list_of_links_that_is_too_long() -> None:
    """A list with one link too many is refused, with its name and both numbers."""
    items = [f"ship_{number}" for number in range(MAX_LINKS + 1)]
    key = DocumentKey("w", "d")
    assert len(wanted_links(key, list(items[1:]), "resources")) == MAX_LINKS
    with pytest.raises(EdgeError, match=f"resources: has {MAX_LINKS + 1} items, and {MAX_LINKS}"):
        wanted_links(key, list(items), "resources")


@pytest.mark.parametrize("page", [pages.MAX_PAGE, pages.MAX_OFFSET // 100 + 2])
def test_page_that_is_too_far_on(page: int) -> None:
    """A page beyond the limit is refused with the number; the last page before it is accepted."""
    with pytest.raises(EdgeError, match=f"page: begins after .* {pages.MAX_OFFSET} is the most"):
        pages.row_range_of(pages.PageQuery(page, 100))
    assert pages.row_range_of(pages.PageQuery(pages.MAX_OFFSET // 100 + 1, 100)).offset == 100_000


def test_search_for_errors_ends() -> None:
    """An error near the end of a list that is too long to search is still refused."""
    valid = '{"op":"link","document_id":"d","resource_id":"ship_1"}'
    operations = ",".join([*[valid] * (validation.MAX_SEARCHED + 1), "1"])
    with pytest.raises(EdgeError) as refused:
        body.BodyReader(BatchRequest).decode(b'{"operations":[%b]}' % operations.encode())
    found = [error.field for error in refused.value.errors]
    assert found in (["operations"], [f"operations[{validation.MAX_SEARCHED + 1}]"])


def texts(count: int) -> str:
    """Return a JSON list with so many strings."""
    return msgspec.json.encode([f"ship_{number}" for number in range(count)]).decode()


def test_texts_are_counted_outside_of_metadata() -> None:
    """One string too many is refused with its field; strings in metadata and escaped quotes do not count."""
    read = body.BodyReader(PutDocument).decode
    most = texts(body.MAX_TEXTS - 4)
    metadata = f'{{"a":{texts(50_000)},"b":"{chr(92)}""}}'
    assert len(read(f'{{"resources":{most},"metadata":{metadata}}}'.encode()).resources) > 39_000
    with pytest.raises(EdgeError, match=f"resources: has more than {body.MAX_TEXTS} names"):
        read(f'{{"resources":{texts(body.MAX_TEXTS + 1)}}}'.encode())
    several = ",".join([f'"resources":{texts(15_000)}'] * 3)
    with pytest.raises(EdgeError, match=f"body: has more than {body.MAX_TEXTS} names"):
        read(f"{{{several}}}".encode())
    with pytest.raises(EdgeError, match="operations: has to have at most 500 items"):
        body.BodyReader(BatchRequest).decode(
            b'{"operations":[%b]}' % b",".join([b'{"op":"link","document_id":"d"}'] * 501)
        )
