"""From what a caller sent to a struct, or to a list of all that is wrong with it."""

import difflib
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, structs

from service.edge.calls.problems import EdgeError, FieldError
from service.edge.shapes.messages import PATTERN_WORDS

MAX_ERRORS: Final = 20
MAX_SEARCHED: Final = 10_000
"""Values of a refused body that are searched for all that is wrong: about 20 ms of the event loop's time."""
MAX_TEXTS: Final = 40_000
"""Names and texts of a body outside `metadata`; 5,000 links with type, id and role have 30,000."""
PART: Final = 100
"""Items of a list that are held against their type at once: nearly all of them are right."""
MAX_PARAMETERS: Final = 50
MAX_NAME: Final = 100
"""Characters of an unknown field's name that are repeated to the caller."""


_expected = re.compile(r"Expected `([^`]+)`(?: of length (<=|>=) (\d+)|, got `([^`]+)`)\Z").match
_place = re.compile(r" - at `\$\.(.*)`\Z").search
_decode_any = msgspec.json.Decoder(float_hook=float).decode  # msgspec takes 8 µs for one `1e300`
_KINDS: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
"""What msgspec calls them, and callers."""


class BodyReader:
    """Decodes JSON bodies into one struct type."""

    def __init__(self, shape: type[Struct]) -> None:
        self.shape = shape
        self._decode = msgspec.json.Decoder(shape).decode
        fields = structs.fields(shape)
        self._stored = {f.encode_name for f in fields if _candidate(None, f.type) is Raw}
        parts = msgspec.defstruct("Parts", [(f.encode_name, Raw, Raw()) for f in fields])
        self._decode_parts = msgspec.json.Decoder(parts).decode

    def decode(self, body: bytes) -> Any:  # noqa: ANN401 - an instance of the shape
        """Return the struct.

        Raises:
            EdgeError: `validation_error`, naming every field that is wrong (at most 20), or the first
                one of a body with more than 10,000 values.
        """
        try:
            try:
                if body.count(b'"') > 2 * MAX_TEXTS:
                    self._check_texts(body)
                return self._decode(body)
            except msgspec.ValidationError as error:
                first = error
                value = _searchable(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise unreadable("body", f"is not JSON: {error}") from None
        except RecursionError:
            raise unreadable("body", "is nested too deeply") from None
        raise _refusal(value, self.shape, strict=True, first=first)

    def _check_texts(self, body: bytes) -> None:
        """Refuse a body with so many texts that decoding it would hold other callers up.

        Raises:
            EdgeError: `validation_error`, naming the field that has most of them.
        """
        parts = structs.asdict(self._decode_parts(body))
        texts = {name: _quotes(bytes(part)) // 2 for name, part in parts.items()}
        stored = sum(texts.pop(name) for name in self._stored)
        if _quotes(body) // 2 - stored <= MAX_TEXTS:
            return
        name = max(texts, key=texts.__getitem__)
        message = f"has more than {MAX_TEXTS} names and texts: send it in several calls"
        raise wrong_fields([FieldError(name if texts[name] > MAX_TEXTS else "body", message)])


def _quotes(json: bytes) -> int:
    """Return the number of quotes around texts."""
    return json.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"')


def _searchable(body: bytes) -> object:
    """Return the decoded body; UNSET if it is too large to be searched for all that is wrong.

    Raises:
        DecodeError: it is no JSON, which may be found out only after something else that is wrong.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) <= MAX_SEARCHED:
        return _decode_any(body)
    msgspec.json.decode(body, type=Raw)
    return UNSET


class QueryReader:
    """Decodes query strings into one struct type."""

    def __init__(self, shape: type[Struct]) -> None:
        self.shape = shape

    def decode(self, query: bytes) -> Any:  # noqa: ANN401 - an instance of the shape
        """Return the struct.

        Raises:
            EdgeError: `validation_error`, naming every parameter that is wrong (at most 20).
        """
        values = _parameters(query) if query else {}
        try:
            query_of_shape = msgspec.convert(values, self.shape, strict=False)
        except msgspec.ValidationError as error:
            raise _refusal(values, self.shape, strict=False, first=error) from None
        # msgspec reads the text "null" as None, which says no more than an absent parameter.
        if nulls := [name for name in values if getattr(query_of_shape, name) is None]:
            raise wrong_fields([FieldError(name, "cannot be null: leave it out") for name in nulls])
        return query_of_shape


def _parameters(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        message = f"is not percent-encoded UTF-8 of at most {MAX_PARAMETERS} parameters"
        raise unreadable("query", message) from None
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name[:MAX_NAME] for name in names if names.count(name) > 1})
        raise wrong_fields([FieldError(name, "is given twice") for name in twice])
    return values


def unreadable(part: str, message: str) -> EdgeError:
    """Return the refusal of a part of the request in which no field can be told."""
    error = FieldError(part, message)
    return EdgeError("validation_error", f"the {part} {message}", errors=[error])


def wrong_fields(errors: list[FieldError]) -> EdgeError:
    """Return the refusal of a request with these wrong fields."""
    first = errors[0]
    detail = (
        f"{first.field}: {first.message}" if len(errors) == 1 else f"{len(errors)} fields are wrong"
    )
    return EdgeError("validation_error", detail, errors=errors[:MAX_ERRORS])


def _refusal(
    value: object, shape: type[Struct], *, strict: bool, first: msgspec.ValidationError
) -> EdgeError:
    """Walk what was refused a second time, since msgspec stops at the first error.

    A value that is UNSET is too large to be walked: the first error is all that is said.
    """
    if value is UNSET:
        place = _place(str(first))
        name = "body" if place is None else place[1]
        return wrong_fields([FieldError(name, _plain(str(first).partition(" - at `$")[0]))])
    if not isinstance(value, dict):
        return unreadable("body", _words(first, shape, shape))
    return wrong_fields(list(islice(_wrong(value, shape, "", strict=strict), MAX_ERRORS)))


def _wrong(value: Any, shape: Any, path: str, *, strict: bool) -> Iterator[FieldError]:  # noqa: ANN401 - any JSON, any type
    """Yield what keeps the value from being of that type, at the innermost places."""
    try:
        msgspec.convert(value, shape, strict=strict)
    except (msgspec.ValidationError, RecursionError) as error:
        inner = _candidate(value, shape)
        if inner is Raw:  # JSON that is stored: checked in its bytes where all else is right
            yield from _wrong(value, dict[str, Any] | None, path, strict=strict)
        elif isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Struct):
            yield from _wrong_in_object(value, inner, path, strict=strict)
        elif isinstance(value, list) and get_origin(inner) is list:
            items = list(islice(_wrong_items(value, inner, path, strict=strict), MAX_ERRORS))
            yield from items or [FieldError(path, _words(error, inner, shape))]
        else:
            yield FieldError(path, _words(error, inner, shape))


def _wrong_items(
    value: list[Any],
    shape: Any,  # noqa: ANN401 - a type of lists
    path: str,
    *,
    strict: bool,
) -> Iterator[FieldError]:
    (item_shape,) = get_args(shape)
    for start in range(0, len(value), PART):
        part = value[start : start + PART]
        with suppress(msgspec.ValidationError, RecursionError):
            msgspec.convert(part, shape, strict=strict)
            continue
        for index, item in enumerate(part, start):
            yield from _wrong(item, item_shape, f"{path}[{index}]", strict=strict)


def _wrong_in_object(
    value: dict[str, Any], shape: type[Struct], path: str, *, strict: bool
) -> Iterator[FieldError]:
    prefix = f"{path}." if path else ""
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    for name in (name for name in value if name not in fields):
        nearest = difflib.get_close_matches(name[:MAX_NAME], fields, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"known are {', '.join(fields)}"
        yield FieldError(prefix + name[:MAX_NAME], f"is not known; {hint}")
    for name, field in fields.items():
        if name in value:
            yield from _wrong(value[name], field.type, prefix + name, strict=strict)
        elif field.required:
            yield FieldError(prefix + name, "is required")


def _candidate(value: object, shape: Any) -> Any:  # noqa: ANN401 - a type
    """Return the alternative of the type that the value was probably meant to be."""
    if get_origin(shape) is Annotated:
        return _candidate(value, get_args(shape)[0])
    if get_origin(shape) not in {Union, UnionType}:
        return shape
    members = [_candidate(value, member) for member in get_args(shape)]
    for member in members:
        is_struct = isinstance(member, type) and issubclass(member, Struct)
        if (is_struct and isinstance(value, dict)) or (
            get_origin(member) is list and isinstance(value, list)
        ):
            return member
    known = [member for member in members if member not in {type(None), UnsetType}]
    return known[0] if len(known) == 1 else shape


def _words(error: Exception, inner: Any, shape: Any) -> str:  # noqa: ANN401 - types
    """Say in a caller's words what msgspec says in a programmer's."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if get_origin(inner) is Literal:
        return f"has to be one of {', '.join(map(str, get_args(inner)))}"
    if inner is int:
        return f"has to be a whole number{_range(shape)}"
    message = str(error).partition(" - at `$")[0]
    known = [words for pattern, words in PATTERN_WORDS.items() if repr(pattern) in message]
    return known[0] if known else _plain(message)


def _plain(message: str) -> str:
    """Put "Expected `str`, got `int`" and its like in words."""
    if (found := _expected(message)) is None:
        return message[:1].lower() + message[1:]
    kinds, bound, length, got = found.groups()
    if bound:
        unit = ("item" if kinds.startswith("array") else "character") + "s" * (length != "1")
        return f"has to have at {'most' if bound == '<=' else 'least'} {length} {unit}"
    wanted = " or ".join(_KINDS.get(kind, kind) for kind in kinds.split(" | "))
    return f"has to be {wanted}, not {_KINDS.get(got, got)}"


def _range(shape: Any) -> str:  # noqa: ANN401 - a type
    """Return " from 1 to 100", if the number's type says so."""
    metas = [part for part in get_args(shape) if isinstance(part, Meta)]
    for low, high in ((meta.ge, meta.le) for meta in metas):
        if low is not None:
            return f" from {low} to {high}" if high is not None else f" from {low} on"
    return ""
