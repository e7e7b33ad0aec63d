"""Ids: those of documents and entities, and those that the service makes.

The entity types and the id prefixes that name them are listed here only. The service makes UUIDv7 (RFC 9562),
their TypeID text, and ULIDs for requests.
"""

import os
import re
import struct
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID

NAMED_TYPES: Final = ("contact", "company", "deal", "event", "matter", "task")
"""Types that a caller names in the body of `/link`."""

PREFIXED_TYPES: Final = {
    "ful_": "fulfillment",
    "ship_": "shipment",
    "ast_": "asset",
    "mfst_": "manifest",
    "item_": "item",
}
"""Types that `/links` infers from the prefix of the resource's id."""

ENTITY_TYPES: Final = (*NAMED_TYPES, *PREFIXED_TYPES.values())

MAX_ID_LENGTH: Final = 128
"""The longest id, in characters."""

ID_PATTERN: Final = rf"^[A-Za-z0-9][A-Za-z0-9_.\-]{{0,{MAX_ID_LENGTH - 1}}}$"
"""Ids of documents and entities: opaque, safe in a URL's path, a log line and a Kafka key."""

PREFIXED_PATTERN: Final = "^({})$".format(
    "|".join(
        rf"{prefix}[A-Za-z0-9_.\-]{{1,{MAX_ID_LENGTH - len(prefix)}}}" for prefix in PREFIXED_TYPES
    )
)
"""Ids with a known prefix, and at least one more character: one pattern, without a look-ahead."""

valid_id: Final = re.compile(ID_PATTERN.removesuffix("$") + r"\Z").match
"""Returns None for a text that cannot be the id of a document or an entity."""

DOCUMENT_PREFIX: Final = "doc"
LINK_PREFIX: Final = "dlnk"

LINK_ID_PATTERN: Final = (
    rf"^({LINK_PREFIX}_[0-7][0-9a-hjkmnp-tv-z]{{25}}"
    r"|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"
)
"""The two forms of a link's id: TypeID and UUID."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_TEXT_LENGTH: Final = 26  # characters for 128 bits, five bits each
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_UPPER_PAIRS: Final = tuple(map(str.upper, _PAIRS))
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}

_BLOCK: Final = struct.Struct("=256Q")

_canonical_uuid = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z").match


def type_of(resource_id: str) -> str | None:
    """Return the type that belongs to the id's prefix; None: unknown prefix, or nothing after it."""
    prefix, underscore, rest = resource_id.partition("_")
    return PREFIXED_TYPES.get(prefix + underscore) if rest else None


@lru_cache(maxsize=256)  # the rows of one transaction have the same time
def microseconds(timestamp: datetime) -> int:
    """Return an aware datetime in microseconds since 1970, without the rounding of a float."""
    return (timestamp - EPOCH) // _MICROSECOND


def to_text(prefix: str, uuid: UUID) -> str:
    """Return the TypeID of a UUID: prefix, underscore, 26 base32 characters (TypeID spec 0.3)."""
    return f"{prefix}_{_base32(uuid.int)}"


def from_text(prefix: str, text: str) -> UUID | None:
    """Return the UUID of a TypeID with that prefix or of a UUID's text; None: the text is neither."""
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


class IdSource:
    """Makes ids from random bytes, read in blocks to avoid a system call for each id."""

    def __init__(
        self, random: Callable[[int], bytes] = os.urandom, words: Iterable[int] = ()
    ) -> None:
        """Take the source of random bytes, and random words that are used first, the last one first."""
        self._random = random
        self._words = [*words]

    def draw(self, count: int) -> list[int]:
        """Return random words, with which another source makes the same ids at any time."""
        return [self._random64() for _ in range(count)]

    def uuid7(self, now_us: int) -> UUID:
        """Return a new UUIDv7; `now_us` is in microseconds since 1970.

        The 12 bits after the milliseconds hold the fraction of the millisecond (RFC 9562, section 6.2,
        method 3), so ids of different microseconds sort by time.
        """
        return UUID(int=self._uuid7(now_us))

    def uuid7_text(self, now_us: int) -> str:
        """Return a new UUIDv7 as text, without the cost of a UUID object."""
        text = f"{self._uuid7(now_us):032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def request_id(self) -> str:
        """Return a new request id: `req_` and a ULID (milliseconds since 1970 and 80 random bits)."""
        prefix = _request_prefix(time.time_ns() // 1_000_000)
        return prefix + _eight_characters(self._random64()) + _eight_characters(self._random64())

    def _uuid7(self, now_us: int) -> int:
        return _time_bits(now_us) | self._random64() >> 2

    def _random64(self) -> int:
        if not self._words:
            self._words.extend(_BLOCK.unpack(self._random(_BLOCK.size)))
        return self._words.pop()


@lru_cache(maxsize=8)  # the ids of one transaction have the same time
def _time_bits(now_us: int) -> int:
    """Return a UUIDv7 whose random bits are zero."""
    milliseconds, fraction = divmod(now_us, 1000)
    high = milliseconds << 16 | 0x7000 | fraction * 4096 // 1000
    return high << 64 | 0x8000_0000_0000_0000


def _eight_characters(value: int, pairs: tuple[str, ...] = _UPPER_PAIRS) -> str:
    """Return the low 40 bits in base32. Twice this is cheaper than shifting a number of 80 bits."""
    return (
        f"{pairs[value >> 30 & 1023]}{pairs[value >> 20 & 1023]}"
        f"{pairs[value >> 10 & 1023]}{pairs[value & 1023]}"
    )


@lru_cache(maxsize=1)
def _request_prefix(milliseconds: int) -> str:
    return "req_" + _base32(milliseconds)[-10:].upper()


def _base32(value: int, pairs: tuple[str, ...] = _PAIRS) -> str:
    """Return 128 bits as 26 characters of Crockford's base32 alphabet."""
    return (
        f"{pairs[value >> 120]}{pairs[value >> 110 & 1023]}{pairs[value >> 100 & 1023]}"
        f"{pairs[value >> 90 & 1023]}{pairs[value >> 80 & 1023]}{pairs[value >> 70 & 1023]}"
        f"{pairs[value >> 60 & 1023]}{pairs[value >> 50 & 1023]}{pairs[value >> 40 & 1023]}"
        f"{pairs[value >> 30 & 1023]}{pairs[value >> 20 & 1023]}{pairs[value >> 10 & 1023]}"
        f"{pairs[value & 1023]}"
    )
