"""Validation: all errors of a body at once, by field; or that it is not JSON."""

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from service.edge.calls.body import BodyReader
from service.edge.calls.problems import EdgeError
from service.edge.shapes.messages import Id, Role


class Shape(Struct, forbid_unknown_fields=True):
    """A type like the body of a link."""

    entity_type: Literal["deal", "task"]
    entity_id: Id
    role: Role | None = None


READER = BodyReader(Shape)


def refused(body: bytes) -> EdgeError:
    """Return the error with which a body is refused."""
    with pytest.raises(EdgeError) as refusal:
        READER.decode(body)
    assert refusal.value.code == "validation_error"
    return refusal.value


def fields(body: bytes) -> dict[str, str]:
    """Return the names of the wrong fields."""
    return {error.field: error.message for error in refused(body).errors}


def test_good_body_is_read() -> None:
    """A valid body is decoded to the struct."""
    body = b'{"entity_type":"deal","entity_id":"deal_1"}'
    assert READER.decode(body) == Shape("deal", "deal_1")


def test_all_wrong_fields_are_named() -> None:
    """A wrong, a missing and an unknown field give three errors."""
    errors = fields(b'{"entity_type":"deel","rolle":"x"}')
    assert set(errors) == {"entity_type", "entity_id", "rolle"}
    assert errors["entity_id"] == "is required"


def test_unknown_field_names_the_nearest() -> None:
    """The error of a misspelt field has the nearest name; that of another one lists the fields."""
    body = {"entity_type": "deal", "entity_id": "a", "rolle": "x", "zzz": 1}
    errors = fields(msgspec.json.encode(body))
    assert errors["rolle"] == "is not known; did you mean `role`?"
    assert errors["zzz"] == "is not known; known are entity_type, entity_id, role"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("entity_id", 5),
        ("entity_id", None),
        ("entity_id", ""),
        ("entity_id", "a b"),
        ("entity_id", "a\n"),
        ("entity_id", "a\0"),
        ("entity_id", "x" * 129),
        ("entity_type", ["deal"]),
        ("role", "x" * 65),
        ("role", "a\0b"),
        ("role", {}),
    ],
)
def test_wrong_value_names_its_field(field: str, value: object) -> None:
    """Wrong types, lengths and characters are refused with the field's name."""
    body = {"entity_type": "deal", "entity_id": "a", "role": "r", field: value}
    assert list(fields(msgspec.json.encode(body))) == [field]


def test_role_counts_characters() -> None:
    """64 characters are allowed, however many bytes they have."""
    body = {"entity_type": "deal", "entity_id": "a", "role": "é" * 64}
    assert READER.decode(msgspec.json.encode(body)).role == "é" * 64


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"entity_id":"a"} x',
        b'{"entity_type":"deal","entity_id":"\xff"}',
        b'{"entity_type":"deal","entity_id":"a","role":"\xed\xa0\x80"}',
        b'{"entity_type":"deal","entity_id":"a","role":"\\ud800"}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_invalid_json_is_refused(body: bytes) -> None:
    """Invalid JSON, invalid UTF-8 and lone surrogates are refused with a text."""
    assert refused(body).detail.startswith("the body is not JSON: ")
    assert list(fields(body)) == ["body"]


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"role":' * 100_000])
def test_endless_nesting_is_refused(body: bytes) -> None:
    """A body that is nested too deeply is refused with a text."""
    assert refused(body).detail == "the body is nested too deeply"
    assert list(fields(body)) == ["body"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"5"])
def test_body_has_to_be_an_object(body: bytes) -> None:
    """JSON that is not an object is refused with a text."""
    assert refused(body).detail.startswith("the body has to be an object, not ")
    assert list(fields(body)) == ["body"]


def test_errors_are_bounded() -> None:
    """A body with a thousand unknown fields has twenty errors in its answer."""
    body = msgspec.json.encode({f"field{number}": 1 for number in range(1000)})
    assert len(refused(body).errors) == 20


class Nested(Struct, forbid_unknown_fields=True):
    """A type like the body of a batch, with a constraint that no body has."""

    items: Annotated[list[Shape | str], Meta(min_length=1, max_length=200_000)]
    size: Annotated[int, Meta(ge=1)] = 1
    factor: float = 1.0
    name: Annotated[str, Meta(min_length=2)] = "ab"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"items":[]}', {"items": "has to have at least 1 item"}),
        ('{"items":["a",5]}', {"items[1]": "has to be an object or text, not a whole number"}),
        ('{"items":[{"entity_type":"deal"}]}', {"items[0].entity_id": "is required"}),
        ('{"items":["a"],"size":0}', {"size": "has to be a whole number from 1 on"}),
        ('{"items":["a"],"factor":true}', {"factor": "has to be a number, not true or false"}),
        ('{"items":["a"],"name":"a"}', {"name": "has to have at least 2 characters"}),
        ('{"items":["a"],"name":1.5}', {"name": "has to be text, not a number"}),
    ],
)
def test_words_come_from_the_types(body: str, expected: dict[str, str]) -> None:
    """The texts for kinds, bounds and places are made from any type in the same way."""
    with pytest.raises(EdgeError) as refusal:
        BodyReader(Nested).decode(body.encode())
    assert {error.field: error.message for error in refusal.value.errors} == expected


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b'{"items":[%b1]}' % (b'"",' * 20_000), "items[20000]", "not a whole number"),
        (b'{"items":[%b1]}' % (b"1," * 150_000), "items", "has a wrong item"),
        (
            b'{"items":["a"]%b}' % b"".join(b',"f%d":1' % n for n in range(20_000)),
            "body",
            "not known",
        ),
        (b'{"items":["a"],"size":[%b1]}' % (b"1," * 20_000), "size", "has to be a whole number"),
        (b'{"size":[%b1]}' % (b"1," * 20_000), "items", "is required"),
    ],
    ids=["item", "too many items", "too many fields", "field", "missing"],
)
def test_large_body_is_told_its_first_error(body: bytes, field: str, words: str) -> None:
    """A body with more than 10,000 values is refused with one error, as exact as time allows."""
    with pytest.raises(EdgeError) as refusal:
        BodyReader(Nested).decode(body)
    (error,) = refusal.value.errors
    assert error.field == field
    assert words in error.message
