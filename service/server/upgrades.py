"""Offers of another protocol, hidden from the parser, which would read no body after one.

Java's HttpClient and `curl --http2` make an offer with every first request. A server may ignore it
(RFC 9110, section 7.8).
"""

import re
from typing import Final

_upgrade = re.compile(rb"(?:(?<=\n)|\A)upgrade(?=:)", re.IGNORECASE)
_FIELD: Final = b"upgrade:"
_HIDDEN: Final = b"x-offer"
"""As long as the name that it replaces, so that a body in which that should stand keeps its length."""
_LETTERS: Final = frozenset(b"upgradeUPGRADE")
_NEWLINE: Final = 10


class UpgradeFilter:
    """Replaces the name of the field Upgrade in the bytes that one connection receives.

    Heads and bodies are treated alike: no JSON string holds a line feed, so a body with such a line
    is refused with the name or without it.
    """

    def __init__(self) -> None:
        self.in_line = False
        """Whether the bytes so far end inside a line."""

    def passes(self, data: bytes) -> bool:
        """Whether the bytes are without the name and without a beginning of it at their end."""
        if data[-1] in _LETTERS or b"pgrade" in data.lower():
            return False
        self.in_line = data[-1] != _NEWLINE
        return True

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the bytes without the name, and apart from them a last line that may become it."""
        first, newline, rest = data.partition(b"\n") if self.in_line else (b"", b"", data)
        data = first + newline + _upgrade.sub(_HIDDEN, rest)
        start = data.rfind(b"\n") + 1
        last = data[start:]
        if last and _FIELD.startswith(last.lower()) and (start or not self.in_line):
            self.in_line = False
            return data[:start], last
        self.in_line = data[-1] != _NEWLINE
        return data, b""
