"""Metadata is stored as it was sent, with fractions rounded to doubles."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from service.edge.calls.problems import EdgeError
from service.edge.calls.stored_json import MAX_CONTAINERS, MAX_DEPTH, MAX_DIGITS, stored_json


def stored(json: bytes) -> str | None:
    """Return the stored form of a `metadata`."""
    return asyncio.run(stored_json("metadata", Raw(json)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from('\\"[{,.eE')),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", '"', "\\", "1.5e1"]), inner),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), JSON))
def test_any_object_is_stored(value: dict[str, object]) -> None:
    """An object is stored with the same meaning, whatever its strings contain."""
    text = stored(msgspec.json.encode(value))
    assert text is not None
    assert msgspec.json.decode(text) == value


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"null", None),
        (b'{"a":0.1000}', '{"a":0.1}'),
        (b'{"a":[1.0,1E5,-0.0,1e-400]}', '{"a":[1.0,100000.0,-0.0,0.0]}'),
        (b'{"a":123456789012345678901234567890.5}', '{"a":1.2345678901234568e+29}'),
        (b'{"a":1180591620717411303425}', '{"a":1180591620717411303425}'),
        (b'{"1.50":"1.50","\\"2.50\\\\":"\\\\\\"1.50"}', '{"1.50":"1.50","\\"2.50\\\\":"\\\\\\"1.50"}'),
        (b'{"a":["\\\\u0000","' + b"[" * 20_000 + b'"]}', '{"a":["\\\\u0000","' + "[" * 20_000 + '"]}'),
        (b'{"a":1.' + b"3" * 9_000 + b"}", '{"a":1.3333333333333333}'),
    ],
)  # fmt: skip
def test_what_is_kept(sent: bytes, kept: str | None) -> None:
    """Fractions are rounded; integers and strings are not changed."""
    assert stored(sent) == kept


def nested(levels: int) -> bytes:
    """Return an object with lists in it, with so many levels in all."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"[]", "has to be an object or null, not a list"),
        (b'"{}"', "not text"),
        (b"1", "not a number"),
        (b"false", "not true or false"),
        (b'{"a":"\\u0000"}', "must not contain NUL"),
        (b'{"\\\\\\u0000":1}', "must not contain NUL"),
        (b'{"a":"\xff"}', "is not UTF-8"),
        (b'{"a":1e400}', "out of the range of a double"),
        (b'{"a":-1E+309}', "out of the range of a double"),
        (b'{"a":' + b"1" * (MAX_DIGITS + 1) + b"}", f"more than {MAX_DIGITS} digits"),
        (nested(MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} levels"),
        (b'{"a":[' + b",".join([b"[]"] * (MAX_CONTAINERS - 1)) + b"]}", "objects and lists"),
    ],
)
def test_what_cannot_be_stored(sent: bytes, message: str) -> None:
    """A value that is no object, or cannot be stored, is refused with the field's name."""
    with pytest.raises(EdgeError, match=f"metadata: .*{message}"):
        stored(sent)


@pytest.mark.parametrize(
    "sent",
    [
        nested(MAX_DEPTH),
        b'{"a":' + b"9" * MAX_DIGITS + b"}",
        b'{"a":[' + b",".join([b"[]"] * (MAX_CONTAINERS - 2)) + b"]}",
    ],
)
def test_at_the_bound(sent: bytes) -> None:
    """Metadata with the greatest depth, length and number of values is stored unchanged."""
    assert stored(sent) == sent.decode()
