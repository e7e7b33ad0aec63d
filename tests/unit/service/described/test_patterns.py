"""The patterns in the schemas accept exactly what the service accepts."""

import jsonschema_rs
from hypothesis import given
from hypothesis import strategies as st

from service.core.ids import (
    ID_PATTERN,
    LINK_ID_PATTERN,
    LINK_PREFIX,
    PREFIXED_PATTERN,
    from_text,
    to_text,
    type_of,
    valid_id,
)

UUIDS = st.uuids()
ALMOST = st.one_of(
    st.from_regex(LINK_ID_PATTERN, fullmatch=True),
    st.from_regex(r"dlnk_[0-9a-zA-Z]{24,28}", fullmatch=True),
    UUIDS.map(str),
    UUIDS.map(lambda uuid: uuid.hex),
    UUIDS.map(lambda uuid: to_text(LINK_PREFIX, uuid)),
    UUIDS.map(lambda uuid: to_text("doc", uuid)),
    st.text(),
)
IDS = st.one_of(
    st.from_regex(r"(ful|ship|ast|mfst|item|deal)?_?[A-Za-z0-9_.\-]{0,130}", fullmatch=True),
    st.text(),
)


def takes(pattern: str, text: str) -> bool:
    """Whether a JSON Schema with the pattern accepts the text."""
    return jsonschema_rs.Draft202012Validator({"pattern": pattern}).is_valid(text)


@given(ALMOST)
def test_link_ids(text: str) -> None:
    """The pattern of a link id accepts both forms."""
    assert takes(LINK_ID_PATTERN, text) == (from_text(LINK_PREFIX, text) is not None)


@given(IDS)
def test_ids(text: str) -> None:
    """The pattern of ids agrees with the service for documents and entities."""
    assert takes(ID_PATTERN, text) == (valid_id(text) is not None)


@given(IDS)
def test_prefixes(text: str) -> None:
    """A resource's id matches its pattern if and only if it is an id and its prefix gives a type."""
    right = valid_id(text) is not None and type_of(text) is not None
    assert takes(PREFIXED_PATTERN, text) == right
