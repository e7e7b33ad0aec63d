"""JSON that is stored as the caller sent it: its bytes are checked and rounded without being decoded.

Decoding is slow: msgspec takes 8 µs for one `1e300`, so a body of 1 MiB would hold the event loop for
more than a second. Here each step takes a few milliseconds, and other calls are served between the
steps.
"""

import asyncio
import math
import re
from typing import Final

from msgspec import Raw

from service.edge.calls.problems import EdgeError, FieldError
from service.edge.calls.validation import wrong_fields

MAX_DEPTH: Final = 100
"""Levels of nesting in a stored JSON value."""
MAX_CONTAINERS: Final = 10_000
"""Objects and lists in a stored JSON value."""
MAX_DIGITS: Final = 4_300
"""Consecutive digits of a number: Python's limit for int(). Postgres' limit is 131,072."""
SLICE: Final = 2_000
"""Values whose fractions are rounded in one step of the event loop, which takes at most 8 ms."""

_ESCAPES: Final = ((b"\\\\", b"\0"), (b'\\"', b"\1"))
"""The escapes that hide whether a quote ends a string, each with a stand-in that JSON does not allow."""
_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_KINDS: Final = {
    ord("["): "a list",
    ord('"'): "text",
    ord("t"): "true or false",
    ord("f"): "true or false",
}

_replace_fractions = re.compile(rb"-?[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)").sub


async def stored_json(field: str, raw: Raw) -> str | None:
    """Return the JSON of an object to be stored, its fractions rounded to doubles; None for null.

    A fraction is rounded to the double that clients decode it to. So an object that was read and is
    written back stays the same. Whole numbers keep all their digits.

    Raises:
        EdgeError: `validation_error`: it is no object, or one that cannot be stored.
    """
    value = bytes(raw)
    if value == b"null":
        return None
    if not value.startswith(b"{"):
        raise _wrong(field, f"has to be an object or null, not {_KINDS.get(value[0], 'a number')}")
    for escape, stand_in in _ESCAPES:
        value = value.replace(escape, stand_in)
    if b"\\u0000" in value:
        raise _wrong(field, "must not contain NUL")
    await asyncio.sleep(0)
    pieces = value.split(b'"')  # every second one is a string's content
    structure = b'"'.join(pieces[::2])
    _check_structure(field, structure)
    await asyncio.sleep(0)
    if _has_fraction(structure):
        structure = await _rounded(field, structure)
        pieces[::2] = structure.split(b'"')
        value = b'"'.join(pieces)
        await asyncio.sleep(0)
    if b"0" * (MAX_DIGITS + 1) in structure.translate(_ZEROS):
        raise _wrong(field, f"has a number of more than {MAX_DIGITS} digits")
    for escape, stand_in in _ESCAPES:
        value = value.replace(stand_in, escape)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise _wrong(field, f"is not UTF-8: {error.reason}") from None


def _check_structure(field: str, structure: bytes) -> None:
    """Check the depth and the number of objects and lists.

    Args:
        field: the name of the field with the JSON.
        structure: the JSON without the content of its strings.
    """
    brackets = structure.translate(None, _BRACKETS)
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise _wrong(field, f"has more than {MAX_CONTAINERS} objects and lists")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise _wrong(field, f"is nested more than {MAX_DEPTH} levels deep")


def _has_fraction(structure: bytes) -> bool:
    """Whether a number may have a point or an exponent; `true` and `false` have an `e` too."""
    return any(sign in structure for sign in (b".", b"e", b"E"))


async def _rounded(field: str, structure: bytes) -> bytes:
    """Return the structure with each fraction as the shortest decimal of the nearest double."""
    values = structure.split(b",")
    for start in range(0, len(values), SLICE):
        part = b",".join(values[start : start + SLICE])
        try:
            part = _replace_fractions(_double, part)
        except OverflowError:
            raise _wrong(field, "has a number that is out of the range of a double") from None
        values[start : start + SLICE] = part.split(b",")
        await asyncio.sleep(0)
    return b",".join(values)


def _double(number: re.Match[bytes]) -> bytes:
    value = float(number[0])
    if math.isinf(value):
        raise OverflowError
    return repr(value).encode()


def _wrong(field: str, message: str) -> EdgeError:
    return wrong_fields([FieldError(field, message)])
