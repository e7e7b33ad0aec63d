"""Pages of lists: the parameters of a page, and the reference to the next one.

A page has a number. Its response has a `Link` to the next page with a cursor: the id of the last link
on the page. Lists are in the order of the links' ids. So a caller who follows the cursors sees each link
that is not removed exactly once, whatever is linked and unlinked meanwhile.
"""

from typing import Annotated, Final
from urllib.parse import urlencode
from uuid import UUID

from msgspec import Meta, Struct, structs

from service.core.ids import LINK_ID_PATTERN, LINK_PREFIX, from_text, to_text
from service.edge.calls.call import invalid_field
from service.edge.shapes.messages import Pagination
from service.store.reading import RowRange

DEFAULT_LIMIT: Final = 25
MAX_LIMIT: Final = 100
MAX_PAGE: Final = 1_000_000_000
MAX_OFFSET: Final = 100_000
"""Items before a page that is requested by its number: Postgres reads and skips them (OFFSET)."""


class PageQuery(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which part of a list: a page, counted from 1, or the links after a cursor."""

    page: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Counted from 1.")] = 1
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Items on a page.")] = DEFAULT_LIMIT
    cursor: Annotated[
        Annotated[str, Meta(extra_json_schema={"pattern": LINK_ID_PATTERN})] | None,
        Meta(description="From `Next-Cursor` or `Link`; then `page` is only repeated."),
    ] = None


def row_range_of(query: PageQuery) -> RowRange:
    """Return the rows that the query asks for.

    Raises:
        EdgeError: `validation_error`: the page begins after MAX_OFFSET, or the cursor is malformed.
    """
    if query.cursor is None:
        offset = (query.page - 1) * query.limit
        if offset > MAX_OFFSET:
            words = f"begins after {offset} items, and {MAX_OFFSET} is the most: follow the Link headers"
            raise invalid_field("page", words)
        return RowRange(query.limit, offset, UUID(int=0))
    after = from_text(LINK_PREFIX, query.cursor)
    if after is None:
        raise invalid_field("cursor", "is not a cursor from a Link header")
    return RowRange(query.limit, 0, after)


def pagination_of(query: PageQuery, total: int) -> Pagination:
    """Return the pagination of a response."""
    return Pagination(query.page, query.limit, total)


def next_link(query: PageQuery, ids: list[UUID]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers `Link` (RFC 8288) and `Next-Cursor` to the next page, if this page is full.

    `Next-Cursor` has the cursor alone, since generated clients do not parse `Link`. The reference in `Link`
    is relative to the request, because a proxy may have removed a prefix of the path.
    """
    if len(ids) < query.limit:
        return ()
    cursor = to_text(LINK_PREFIX, ids[-1])
    following = structs.replace(query, page=query.page + 1, cursor=cursor)
    parameters = {n: value for n, value in structs.asdict(following).items() if value is not None}
    link = f'<?{urlencode(parameters)}>; rel="next"'
    return (b"link", link.encode()), (b"next-cursor", cursor.encode())


def counted(count: int, noun: str, verb: str) -> str:
    """Return "1 link retrieved", "3 links retrieved"."""
    return f"{count} {noun}{'' if count == 1 else 's'} {verb}"
