"""The registry: the types, their prefixes, and the form of ids."""

import pytest

from service.core import ids


@pytest.mark.parametrize(
    ("resource_id", "entity_type"),
    [
        ("ful_def456", "fulfillment"),
        ("ship_abc123", "shipment"),
        ("ast_xyz789", "asset"),
        ("mfst_1", "manifest"),
        ("item_a_b", "item"),
        ("ship_", None),
        ("ship", None),
        ("shipabc", None),
        ("SHIP_abc", None),
        ("deal_01HY1", None),
        ("_abc", None),
        ("", None),
    ],
)
def test_prefix_tells_the_type(resource_id: str, entity_type: str | None) -> None:
    """Each of the five prefixes gives its type; a prefix alone, or another one, gives none."""
    assert ids.type_of(resource_id) == entity_type


def test_there_are_eleven_types() -> None:
    """Six types are named, five are inferred, none is both."""
    assert len(ids.ENTITY_TYPES) == len(set(ids.ENTITY_TYPES)) == 11


@pytest.mark.parametrize(
    "text", ["a", "0", "doc_01HY1", "123e4567-e89b-12d3-a456-426614174000", "a.b-c_D", "x" * 128]
)
def test_ids_are_opaque(text: str) -> None:
    """An id has up to 128 letters, digits, underscores, hyphens and dots."""
    assert ids.valid_id(text)


@pytest.mark.parametrize(
    "text", ["", "_a", "-a", ".a", "a b", "a/b", "a\n", "a\0", "é", "x" * 129, "a%20", "a:b"]
)
def test_what_is_no_id(text: str) -> None:
    """A text with another first character, another character or too many is not an id."""
    assert not ids.valid_id(text)
