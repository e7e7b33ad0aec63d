"""Query strings: decoded to the same types as bodies."""

from typing import Annotated, Literal

import pytest
from msgspec import Meta, Struct

from service.edge.calls.body import QueryReader
from service.edge.calls.problems import EdgeError


class Query(Struct, forbid_unknown_fields=True):
    """A type like the query of a list."""

    page: Annotated[int, Meta(ge=1)] = 1
    kind: Literal["deal", "task"] | None = None
    name: str | None = None


READER = QueryReader(Query)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", Query()),
        (b"page=7&kind=deal&name=a%20b", Query(7, "deal", "a b")),
        (b"name=", Query(name="")),
        (b"name=null", Query(name="null")),
    ],
)
def test_good_query_is_read(query: bytes, expected: Query) -> None:
    """Numbers are decoded, absent parameters have their defaults, and texts stay texts."""
    assert READER.decode(query) == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (b"page=0", "page"),
        (b"page=one", "page"),
        (b"page=1.5", "page"),
        (b"page=null", "page"),
        (b"kind=other", "kind"),
        (b"kind=", "kind"),
        (b"kind=null", "kind"),
        (b"kind=NULL", "kind"),
        (b"page=1&page=2", "page"),
        (b"pages=1", "pages"),
        (b"name=%ff", "query"),
        (b"name=\xe9", "query"),
        (b"&".join([b"name=1"] * 51), "query"),
    ],
)
def test_wrong_query_names_its_parameter(query: bytes, field: str) -> None:
    """A malformed, unknown or repeated parameter, or the text `null`, is refused by name."""
    with pytest.raises(EdgeError) as refusal:
        READER.decode(query)
    assert [error.field for error in refusal.value.errors] == [field]
