"""Pages of lists: which part is asked for, and where the next one is.

A page has a number, as the vendors have it, and its response a `Link` to the next page with a cursor:
the id of the last link seen. A reader who follows the cursors sees each link that stays exactly
once, whatever is linked and unlinked meanwhile, since lists are in the order of the links' ids.
"""

from typing import Annotated, Final
from urllib.parse import urlencode
from uuid import UUID

from msgspec import Meta, Struct, structs

from service.core.ids import LINK_ID_PATTERN, LINK_PREFIX, from_text, to_text
from service.edge.calls.call import invalid_field
from service.edge.shapes.messages import Pagination

DEFAULT_LIMIT: Final = 25
MAX_LIMIT: Final = 100
MAX_PAGE: Final = 1_000_000_000
MAX_OFFSET: Final = 100_000
"""Items before a page that is named by its number: Postgres reads them all to leave them out."""


class PageQuery(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which part of a list: a page, counted from 1, or what follows a cursor."""

    page: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Counted from 1.")] = 1
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Items on a page.")] = DEFAULT_LIMIT
    cursor: Annotated[
        Annotated[str, Meta(extra_json_schema={"pattern": LINK_ID_PATTERN})] | None,
        Meta(description="From a Link header; then `page` is only repeated."),
    ] = None


class Window(Struct, frozen=True):
    """The same, in rows: those after a link's id, or after a number of others."""

    limit: int
    offset: int
    after: UUID


def window_of(query: PageQuery) -> Window:
    """Return the rows that the query asks for.

    Raises:
        EdgeError: `validation_error`, the page is too far on, or the cursor is not from a list.
    """
    if query.cursor is None:
        offset = (query.page - 1) * query.limit
        if offset > MAX_OFFSET:
            words = f"begins after {offset} items, and {MAX_OFFSET} is the most: follow the Link headers"
            raise invalid_field("page", words)
        return Window(query.limit, offset, UUID(int=0))
    after = from_text(LINK_PREFIX, query.cursor)
    if after is None:
        raise invalid_field("cursor", "is not a cursor from a Link header")
    return Window(query.limit, 0, after)


def pagination_of(query: PageQuery, total: int) -> Pagination:
    """Return where the page stands."""
    return Pagination(query.page, query.limit, total)


def next_link(query: PageQuery, ids: list[UUID]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the `Link` header to the next page (RFC 8288), if this one was full.

    It is relative to the request, since a proxy may have taken a prefix off the path.
    """
    if len(ids) < query.limit:
        return ()
    following = structs.replace(query, page=query.page + 1, cursor=to_text(LINK_PREFIX, ids[-1]))
    parameters = {
        name: value for name, value in structs.asdict(following).items() if value is not None
    }
    return ((b"link", f'<?{urlencode(parameters)}>; rel="next"'.encode()),)


def counted(count: int, noun: str, verb: str) -> str:
    """Return "1 link retrieved", "3 links retrieved"."""
    return f"{count} {noun}{'' if count == 1 else 's'} {verb}"
