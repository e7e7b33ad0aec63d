"""From what a caller sent to a struct, or to a list of all that is wrong with it."""

import difflib
import re
from collections.abc import Iterator
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct, UnsetType

from service.edge.messages import PATTERN_WORDS
from service.edge.problems import EdgeError, FieldError

MAX_ERRORS: Final = 20
MAX_SEARCHED: Final = 2_000
"""Items of a list that are searched for what is wrong: a few milliseconds of the event loop's time."""
MAX_PARAMETERS: Final = 50
MAX_DEPTH: Final = 100
"""Levels of a JSON value that is stored as it is."""
MAX_CONTAINERS: Final = 10_000
"""Objects and lists in a JSON value that is stored as it is: each costs far more than its bytes."""
MAX_NAME: Final = 100
"""Characters of an unknown field's name that are repeated to the caller."""


_expected = re.compile(r"Expected `([^`]+)`(?: of length (<=|>=) (\d+)|, got `([^`]+)`)\Z").match
_has_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search
"""In JSON: an escape is one after an even number of backslashes."""
_place = re.compile(r" - at `\$\.(.*)`\Z").search
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

    def decode(self, body: bytes) -> Any:  # noqa: ANN401 - an instance of the shape
        """Return the struct.

        Raises:
            EdgeError: `validation_error`, naming every field that is wrong (at most 20).
        """
        try:
            try:
                return self._decode(body)
            except msgspec.ValidationError as error:
                first = error
                value = msgspec.json.decode(body)  # what is no JSON may be found out only now
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable("body", f"is not JSON: {error}") from None
        except RecursionError:
            raise _unreadable("body", "is nested too deeply") from None
        raise _refusal(_shortened(value), self.shape, strict=True, first=first)


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
        raise _unreadable("query", message) from None
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name[:MAX_NAME] for name in names if names.count(name) > 1})
        raise wrong_fields([FieldError(name, "is given twice") for name in twice])
    return values


def _unreadable(part: str, message: str) -> EdgeError:
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


def check_json(field: str, value: object) -> None:
    """See that a JSON value can be stored: text in Postgres has no NUL, and readers have an end.

    Raises:
        EdgeError: `validation_error`.
    """
    text = msgspec.json.encode(value)
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        _check_containers(field, value)
    if _has_nul(text):
        raise wrong_fields([FieldError(field, "must not contain NUL")])


def _check_containers(field: str, value: object) -> None:
    """See that objects and lists are neither nested too deeply nor too many."""
    level: list[Any] = [value]
    count = 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_CONTAINERS:
            message = f"has more than {MAX_CONTAINERS} objects and lists"
            raise wrong_fields([FieldError(field, message)])
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise wrong_fields([FieldError(field, f"is nested more than {MAX_DEPTH} levels deep")])


def _shortened(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the value with the beginnings of its lists: more is not searched for what is wrong."""
    if isinstance(value, list):
        return value[:MAX_SEARCHED]
    if not isinstance(value, dict):
        return value
    return {
        name: {
            inner: part[:MAX_SEARCHED] if isinstance(part, list) else part
            for inner, part in each.items()
        }
        if isinstance(each, dict)
        else each[:MAX_SEARCHED]
        if isinstance(each, list)
        else each
        for name, each in value.items()
    }


def _refusal(
    value: object, shape: type[Struct], *, strict: bool, first: msgspec.ValidationError
) -> EdgeError:
    """Walk what was refused a second time, since msgspec stops at the first error."""
    if not isinstance(value, dict):
        return _unreadable("body", _words(first, shape, shape))
    found = list(islice(_wrong(value, shape, "", strict=strict), MAX_ERRORS))
    if not found:  # it is further on in a list than is searched
        place = _place(str(first))
        name = "body" if place is None else place[1]
        found = [FieldError(name, _plain(str(first).partition(" - at `$")[0]))]
    return wrong_fields(found)


def _wrong(value: Any, shape: Any, path: str, *, strict: bool) -> Iterator[FieldError]:  # noqa: ANN401 - any JSON, any type
    """Yield what keeps the value from being of that type, at the innermost places."""
    try:
        msgspec.convert(value, shape, strict=strict)
    except (msgspec.ValidationError, RecursionError) as error:
        inner = _candidate(value, shape)
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Struct):
            yield from _wrong_in_object(value, inner, path, strict=strict)
        elif isinstance(value, list) and get_origin(inner) is list:
            before = 0
            for index, item in enumerate(value):
                for found in _wrong(item, get_args(inner)[0], f"{path}[{index}]", strict=strict):
                    before += 1
                    yield found
            if not before:
                yield FieldError(path, _words(error, inner, shape))
        else:
            yield FieldError(path, _words(error, inner, shape))


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
