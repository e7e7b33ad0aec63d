"""Ids that the service makes: UUIDv7 (RFC 9562), their TypeID text, and ULIDs for requests."""

import os
import re
import struct
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID

DOCUMENT_PREFIX: Final = "doc"
LINK_PREFIX: Final = "dlnk"

LINK_ID_PATTERN: Final = (
    rf"^({LINK_PREFIX}_[0-7][0-9a-hjkmnp-tv-z]{{25}}"
    r"|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"
)
"""What `from_text` reads as a link's id: either form."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_TEXT_LENGTH: Final = 26  # of 128 bits, five to a character
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_UPPER_PAIRS: Final = tuple(map(str.upper, _PAIRS))
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}

_BLOCK: Final = struct.Struct("=256Q")
_random_words: Final[list[int]] = []
os.register_at_fork(after_in_child=_random_words.clear)

_canonical_uuid = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z").match


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exactly (a float of seconds would round)."""
    return (moment - _EPOCH) // _MICROSECOND


def uuid7(moment_us: int) -> UUID:
    """Return a UUIDv7 of the moment, in microseconds since 1970.

    The 12 bits after the milliseconds hold the fraction of the millisecond (RFC 9562, section 6.2,
    method 3), so ids of different microseconds sort as their moments do.
    """
    return UUID(int=_uuid7(moment_us))


def uuid7_text(moment_us: int) -> str:
    """Return the text of a new `uuid7`, for less than by way of the UUID."""
    text = f"{_uuid7(moment_us):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def to_text(prefix: str, uuid: UUID) -> str:
    """Return the TypeID of a UUID: prefix, underscore, 26 base32 characters (TypeID spec 0.3)."""
    return f"{prefix}_{_base32(uuid.int)}"


def from_text(prefix: str, text: str) -> UUID | None:
    """Read a UUID from its TypeID with that prefix or from its usual text; None otherwise."""
    if _canonical_uuid(text):
        return UUID(text)
    encoded = text.removeprefix(f"{prefix}_")
    if len(encoded) != _TEXT_LENGTH or encoded == text or encoded[0] > "7":
        return None
    value = 0
    for character in encoded:
        digit = _VALUES.get(character)
        if digit is None:
            return None
        value = value << 5 | digit
    return UUID(int=value)


def request_id() -> str:
    """Return a new request id: `req_` and a ULID (a millisecond and 80 random bits)."""
    prefix = _request_prefix(time.time_ns() // 1_000_000)
    return prefix + _random_characters() + _random_characters()


def _random_characters(pairs: tuple[str, ...] = _UPPER_PAIRS) -> str:
    """Return eight random characters, which are 40 bits: cheaper to shift than a number of 80 bits."""
    value = _random64()
    return (
        f"{pairs[value >> 30 & 1023]}{pairs[value >> 20 & 1023]}"
        f"{pairs[value >> 10 & 1023]}{pairs[value & 1023]}"
    )


@lru_cache(maxsize=1)
def _request_prefix(milliseconds: int) -> str:
    return "req_" + _base32(milliseconds)[-10:].upper()


def _uuid7(moment_us: int) -> int:
    milliseconds, fraction = divmod(moment_us, 1000)
    high = milliseconds << 16 | 0x7000 | fraction * 4096 // 1000
    return high << 64 | 0x8000_0000_0000_0000 | _random64() >> 2


def _random64() -> int:
    """64 bits from the system's generator: asked for in blocks, a call of its own costs more than an id."""
    if not _random_words:
        _random_words.extend(_BLOCK.unpack(os.urandom(_BLOCK.size)))
    return _random_words.pop()


def _base32(value: int, pairs: tuple[str, ...] = _PAIRS) -> str:
    """128 bits as 26 characters of Crockford's alphabet, two at a time."""
    return (
        f"{pairs[value >> 120]}{pairs[value >> 110 & 1023]}{pairs[value >> 100 & 1023]}"
        f"{pairs[value >> 90 & 1023]}{pairs[value >> 80 & 1023]}{pairs[value >> 70 & 1023]}"
        f"{pairs[value >> 60 & 1023]}{pairs[value >> 50 & 1023]}{pairs[value >> 40 & 1023]}"
        f"{pairs[value >> 30 & 1023]}{pairs[value >> 20 & 1023]}{pairs[value >> 10 & 1023]}"
        f"{pairs[value & 1023]}"
    )
