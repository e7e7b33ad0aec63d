"""The errors in a body or a query string that msgspec has refused, in words for callers.

msgspec stops at the first error, and describes it in Python's terms. So each part of a refused value is
decoded again by itself, down to the innermost parts that do not fit their types. The words come from
these types: kinds, Literal values, and the bounds and patterns in their Meta.
"""

import difflib
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Raw, Struct, UnsetType, structs

from service.edge.calls.problems import EdgeError, FieldError
from service.edge.shapes.messages import PATTERN_WORDS

MAX_ERRORS: Final = 20
"""Errors in one answer."""
MAX_SEARCHED: Final = 10_000
"""The most values of a body that are all searched, which takes about 20 ms on the event loop. In a larger
body the search ends at the first error."""
MAX_SPLIT: Final = 100_000
"""The most values of a list that is split into its items, which takes about 10 ms on the event loop."""
PART: Final = 100
"""Items of a list that are decoded together. Only if that fails, they are decoded one by one."""
MAX_NAME: Final = 100
"""Characters of an unknown field's name in the answer."""

_decode_any = msgspec.json.Decoder(float_hook=float).decode  # msgspec takes 8 µs for one `1e300`
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_is_whole = re.compile(rb"-?[0-9]+\Z").match

_WORDS: Final[dict[Any, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}
"""What callers call the types of JSON values."""
_KIND_OF: Final = {b'"': str, b"t": bool, b"f": bool, b"[": list, b"{": dict, b"n": NoneType}
"""The type of a JSON value by its first byte; any other byte begins a number."""


class _Member(NamedTuple):
    """One alternative of a type, and the constraints on it."""

    type: Any
    metas: tuple[Meta, ...]

    @property
    def kind(self) -> Any:  # noqa: ANN401 - a key of _WORDS
        """The type of its JSON values."""
        base = get_origin(self.type) or self.type
        if base is Literal:
            return str
        return dict if base is Raw or issubclass(base, Struct) else base


def is_stored(shape: Any) -> bool:  # noqa: ANN401 - a type
    """Whether JSON of this type is stored as the caller sent it; `stored_json` checks its content."""
    return any(member.type is Raw for member in _members(shape))


@lru_cache
def parts_decoder(shape: type[Struct]) -> msgspec.json.Decoder[Any]:
    """Return a decoder that splits an object into its known fields; an absent field is empty."""
    names = [(field.encode_name, Raw, Raw()) for field in structs.fields(shape)]
    return msgspec.json.Decoder(msgspec.defstruct("Parts", names))


def errors_in_body(body: bytes, shape: type[Struct]) -> list[FieldError]:
    """Return the errors in a body that does not fit the type.

    Raises:
        EdgeError: the body is no object.
        DecodeError: the body is not JSON after the field where msgspec stopped.
    """
    large = sum(map(body.count, (b",", b"[", b"{"))) > MAX_SEARCHED
    if large:
        msgspec.json.decode(body, type=Raw)
    else:
        _decode_any(body)
    kind = _kind_of(body.lstrip())
    if kind is not dict:
        raise unreadable("body", f"has to be an object, not {_WORDS[kind]}")
    return list(islice(_wrong_in_object(body, shape, "", strict=True), 1 if large else MAX_ERRORS))


def errors_in_query(values: dict[str, str], shape: type[Struct]) -> list[FieldError]:
    """Return the errors in parameters that do not fit the type."""
    return list(_wrong_in_object(msgspec.json.encode(values), shape, "", strict=False))


def unreadable(part: str, message: str) -> EdgeError:
    """Return the refusal of the body or the query string as a whole."""
    error = FieldError(part, message)
    return EdgeError("validation_error", f"the {part} {message}", errors=[error])


def wrong_fields(errors: list[FieldError]) -> EdgeError:
    """Return the refusal of a request with these wrong fields."""
    first = errors[0]
    detail = (
        f"{first.field}: {first.message}" if len(errors) == 1 else f"{len(errors)} fields are wrong"
    )
    return EdgeError("validation_error", detail, errors=errors[:MAX_ERRORS])


def _wrong(json: bytes, shape: Any, path: str, *, strict: bool) -> Iterator[FieldError]:  # noqa: ANN401 - any type
    """Yield the innermost errors of a value that does not fit the type; nothing if it fits."""
    if is_stored(shape):
        shape = dict[str, Raw] | None
    if _fits(msgspec.json.Decoder(shape, strict=strict), json):
        return
    kind, members = _kind_of(json), list(_members(shape))
    meant = [member for member in members if member.kind is kind]
    meant = meant or [member for member in members if member.type is not NoneType]
    member = meant[0]
    if len(meant) > 1:
        yield FieldError(path, _other_kind(members, kind))
    elif kind is dict and member.kind is dict and member.type is not dict:
        yield from _wrong_in_object(json, member.type, path, strict=strict)
    elif kind is list and member.kind is list:
        yield from _wrong_in_list(json, member, path, strict=strict)
    elif get_origin(member.type) is Literal:
        yield FieldError(path, f"has to be one of {', '.join(map(str, get_args(member.type)))}")
    elif member.type is int:
        yield FieldError(path, f"has to be a whole number{_range(member.metas)}")
    elif member.kind is kind:
        yield FieldError(path, _broken_constraint(msgspec.json.decode(json), member.metas))
    else:
        yield FieldError(path, _other_kind(members, kind))


def _wrong_in_object(
    json: bytes, shape: type[Struct], path: str, *, strict: bool
) -> Iterator[FieldError]:
    prefix = f"{path}." if path else ""
    fields = {field.encode_name: field for field in structs.fields(shape)}
    known = f"known are {', '.join(fields)}"
    if json.count(b",") > MAX_SEARCHED:
        parts = structs.asdict(parts_decoder(shape).decode(json))
        parts = {name: part for name, part in parts.items() if bytes(part)}
    else:
        parts = _decode_fields(json)
    found = False
    for name in (name for name in parts if name not in fields):
        nearest = difflib.get_close_matches(name[:MAX_NAME], fields, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else known
        found = True
        yield FieldError(prefix + name[:MAX_NAME], f"is not known; {hint}")
    for name, field in fields.items():
        if name in parts:
            for error in _wrong(bytes(parts[name]), field.type, prefix + name, strict=strict):
                found = True
                yield error
        elif field.required:
            found = True
            yield FieldError(prefix + name, "is required")
    if not found:
        yield FieldError(path or "body", f"has a field that is not known; {known}")


def _wrong_in_list(
    json: bytes, member: _Member, path: str, *, strict: bool
) -> Iterator[FieldError]:
    if json.count(b",") > MAX_SPLIT:
        yield FieldError(
            path, f"has a wrong item, which is not searched for in more than {MAX_SPLIT} values"
        )
        return
    items = [bytes(item) for item in _decode_items(json)]
    decoder = msgspec.json.Decoder(member.type, strict=strict)
    (item_shape,) = get_args(member.type)
    found = False
    for start in range(0, len(items), PART):
        part = items[start : start + PART]
        if _fits(decoder, b"[%b]" % b",".join(part)):
            continue
        for index, item in enumerate(part, start):
            for error in _wrong(item, item_shape, f"{path}[{index}]", strict=strict):
                found = True
                yield error
    if not found:
        yield FieldError(path, _broken_constraint(items, member.metas))


def _fits(decoder: msgspec.json.Decoder[Any], json: bytes) -> bool:
    try:
        decoder.decode(json)
    except msgspec.ValidationError:
        return False
    return True


def _kind_of(json: bytes) -> Any:  # noqa: ANN401 - a key of _WORDS
    return _KIND_OF.get(json[:1]) or (int if _is_whole(json) else float)


def _members(shape: Any, metas: tuple[Meta, ...] = ()) -> Iterator[_Member]:  # noqa: ANN401 - a type
    """Yield the alternatives of a type, except UnsetType, which stands for an absent field."""
    if get_origin(shape) is Annotated:
        inner, *more = get_args(shape)
        yield from _members(inner, (*more, *metas))
    elif get_origin(shape) in {Union, UnionType}:
        for each in get_args(shape):
            yield from _members(each, metas)
    elif shape is not UnsetType:
        yield _Member(shape, metas)


def _other_kind(members: list[_Member], kind: Any) -> str:  # noqa: ANN401 - a key of _WORDS
    wanted = " or ".join(dict.fromkeys(_WORDS[member.kind] for member in members))
    return f"has to be {wanted}, not {_WORDS[kind]}"


def _broken_constraint(value: Any, metas: tuple[Meta, ...]) -> str:  # noqa: ANN401 - text or a list
    """Return the words for the first constraint that a value of the right kind breaks."""
    unit = "item" if isinstance(value, list) else "character"
    for meta in metas:
        for bound, limit, broken in (
            ("most", meta.max_length, len(value) > (meta.max_length or len(value))),
            ("least", meta.min_length, len(value) < (meta.min_length or 0)),
        ):
            if broken:
                return f"has to have at {bound} {limit} {unit}{'' if limit == 1 else 's'}"
        if meta.pattern is not None and re.search(meta.pattern, value) is None:
            return PATTERN_WORDS[meta.pattern]
    return "is not valid"


def _range(metas: tuple[Meta, ...]) -> str:
    """Return " from 1 to 100", if the number's type says so."""
    for low, high in ((meta.ge, meta.le) for meta in metas):
        if low is not None:
            return f" from {low} to {high}" if high is not None else f" from {low} on"
    return ""
