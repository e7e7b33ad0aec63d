"""Who calls: API keys, looked up once, forgotten within seconds of a revocation."""

import asyncio
import hashlib
import logging
import math
import re
import time
from collections.abc import Mapping
from typing import Final

from service.core.errors import Unavailable
from service.edge.problems import EdgeError
from service.store.database import Database
from service.store.keys import Key, find_keys

REFRESH_INTERVAL_S: Final = 4.0
FRESH_S: Final = 9.0
"""A key that could not be looked at for so long is not trusted; the contract says 10 s."""
IDLE_S: Final = 600.0
"""A key that nobody used for so long is forgotten."""
MAX_UNKNOWN: Final = 10_000
"""Wrong keys remembered, so that a caller with an old one does not ask the database each time."""

WWW_AUTHENTICATE: Final = (b"www-authenticate", b'Bearer realm="document-links"')

_well_formed = re.compile(rb"wbk_[A-Za-z0-9]{52}\Z").match

log = logging.getLogger(__name__)


class _Entry:
    """A known key, when it was last read from the database, and when it was last used."""

    __slots__ = ("key", "read_at", "used_at")

    def __init__(self, key: Key, now: float) -> None:
        self.key = key
        self.read_at = now
        self.used_at = now


class KeyRing:
    """The keys in use, by their SHA-256; a key itself is never kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[bytes, _Entry] = {}
        self._unknown: dict[bytes, float] = {}

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Key:
        """Return the key that the headers carry.

        Raises:
            EdgeError: `invalid_key`: none, unknown, revoked or expired.
            Unavailable: it is not known here, and the database is away.
        """
        presented = _presented(headers)
        if presented is None:
            raise _invalid("send a key: `Authorization: Bearer wbk_…` or `X-API-KEY: wbk_…`")
        digest = hashlib.sha256(presented).digest()
        now = time.monotonic()
        entry = self._known.get(digest)
        if entry is None or entry.read_at < now - FRESH_S:
            entry = await self._look_up(digest, now)
        key = entry.key
        if key.expires_at is not None and key.expires_at <= time.time():
            raise _invalid("the key has expired")
        entry.used_at = now
        return key

    async def _look_up(self, digest: bytes, now: float) -> _Entry:
        if self._unknown.get(digest, -math.inf) > now - REFRESH_INTERVAL_S:
            raise _invalid("the key is unknown or revoked")
        found = await find_keys(self._database, [digest])
        if digest not in found:
            self._known.pop(digest, None)
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[digest] = now
            raise _invalid("the key is unknown or revoked")
        entry = self._known[digest] = _Entry(found[digest], now)
        return entry

    async def refresh_forever(self) -> None:
        """Read the keys in use again every few seconds, so that no request has to wait for it."""
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            now = time.monotonic()
            for digest in [d for d, entry in self._known.items() if entry.used_at < now - IDLE_S]:
                del self._known[digest]
            try:
                await self._refresh(now)
            except Unavailable as error:
                log.warning("keys.refresh_failed", extra={"error": str(error.__cause__ or error)})
            except Exception:
                log.exception("keys.refresh_failed")  # whatever it is, it must not end the loop

    async def _refresh(self, now: float) -> None:
        digests = list(self._known)
        if not digests:
            return
        found = await find_keys(self._database, digests)
        for digest in digests:
            entry = self._known.get(digest)
            if digest not in found:
                self._known.pop(digest, None)
            elif entry is not None:  # a request that looked for it did not find it meanwhile
                entry.key = found[digest]
                entry.read_at = now


def _presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return what looks like a key, from either header."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, credentials = authorization.partition(b" ")
        candidate = credentials.strip() if scheme.lower() == b"bearer" else b""
    else:
        candidate = headers.get(b"x-api-key", b"")
    return candidate if _well_formed(candidate) else None


def _invalid(detail: str) -> EdgeError:
    return EdgeError("invalid_key", detail, headers=[WWW_AUTHENTICATE])
