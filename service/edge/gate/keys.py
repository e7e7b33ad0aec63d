"""Authentication with API keys, which are cached in memory. A revoked key is refused within 10 s."""

import asyncio
import hashlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from service.core.errors import Unavailable
from service.edge.calls.problems import EdgeError
from service.logs import get_logger
from service.store.database import Database
from service.store.keys import Key, find_keys
from service.supervision import LastingProblem

REFRESH_INTERVAL_S: Final = 4.0
"""Time between two queries that read all cached keys again."""
FRESH_S: Final = 9.0
"""A cached key older than this is read again from the database before it is used: a revoked key is
promised to be refused within 10 s, also while the refreshing queries fail."""
IDLE_S: Final = 600.0
"""A cached key that was not used for this time is dropped."""
UNKNOWN_S: Final = 4.0
"""Time for which a wrong key is cached, so that further calls with it need no query."""
MAX_UNKNOWN: Final = 10_000
"""Cached wrong keys; a new one displaces the oldest."""
MAX_PRESENTED: Final = 4
"""Keys of one call that are checked; further ones are ignored."""
MAX_LOOKED_UP: Final = 500
"""Keys in one query."""
LOOK_UP_TIMEOUT_S: Final = 3.0
"""The longest time that a call waits for the database to look up its keys."""

# Some proxies join repeated lines with commas, so both headers may be lists.
_in_authorization = re.compile(
    rb"(?:\A|,)[ \t]*(?i:bearer)[ \t]+(wbk_[A-Za-z0-9]{52})[ \t]*(?=,|\Z)"
).findall
_in_x_api_key = re.compile(rb"(?:\A|,)[ \t]*(wbk_[A-Za-z0-9]{52})[ \t]*(?=,|\Z)").findall

log = get_logger(__name__)


class _Entry:
    """A known key, when it was last read from the database, and when it was last used."""

    __slots__ = ("key", "read_at", "used_at")

    def __init__(self, key: Key, now: float) -> None:
        self.key = key
        self.read_at = now
        self.used_at = now


class KeyRing:
    """A cache of the keys in use, by their SHA-256 digests; the keys themselves are not stored.

    One task looks up the keys that are not cached. While its query runs, the keys of further calls are
    collected for the next query. So any number of wrong keys occupies one connection of the pool.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._measures = database.measures
        self._known: dict[bytes, _Entry] = {}
        self._unknown: dict[bytes, float] = {}
        """When each wrong key was looked up, oldest first."""
        self._wanted: dict[bytes, asyncio.Future[Key | Exception | None]] = {}
        """Keys to be looked up, with the futures that their calls await."""
        self._looking_up: asyncio.Task[None] | None = None

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Key:
        """Return the first valid key in the headers.

        Raises:
            EdgeError: `invalid_key`: there is no key, or each is unknown, revoked or expired.
            Unavailable: a key is not cached, and the database does not answer.
        """
        presented = _presented(headers)
        if not presented:
            raise _invalid("send a key: `Authorization: Bearer wbk_…` or `X-API-KEY: wbk_…`")
        refusals: list[EdgeError | Unavailable] = []
        may_query = True  # False once the database has not answered for one of the keys
        for key in presented:
            try:
                return await self._check(key, may_query=may_query)
            except (EdgeError, Unavailable) as refusal:
                refusals.append(refusal)
                may_query = may_query and not isinstance(refusal, Unavailable)
        raise next((each for each in refusals if isinstance(each, Unavailable)), refusals[0])

    async def _check(self, presented: bytes, *, may_query: bool) -> Key:
        """Return the key if it is valid now."""
        digest = hashlib.sha256(presented).digest()
        now = time.monotonic()
        entry = self._known.get(digest)
        if entry is None or entry.read_at < now - FRESH_S:
            if not may_query:
                raise Unavailable("the key cannot be checked now: try again")
            entry = await self._look_up(digest, now)
        key = entry.key
        if key.expires_at is not None and key.expires_at <= time.time():
            raise _invalid("the key has expired")
        entry.used_at = now
        return key

    async def _look_up(self, digest: bytes, now: float) -> _Entry:
        if self._unknown.get(digest, -math.inf) > now - UNKNOWN_S:
            self._measures.unknown_keys += 1
            raise _invalid("the key is unknown or revoked")
        found = await self._find(digest)
        if found is None:
            self._measures.unknown_keys += 1
            self._known.pop(digest, None)
            self._unknown.pop(digest, None)  # so that it moves to the end
            if len(self._unknown) >= MAX_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[digest] = now
            raise _invalid("the key is unknown or revoked")
        entry = self._known[digest] = _Entry(found, now)
        return entry

    async def _find(self, digest: bytes) -> Key | None:
        """Return the key with this digest from the database; None: there is none.

        Raises:
            Unavailable: the database does not answer.
        """
        future = self._wanted.get(digest)
        if future is None:
            future = self._wanted[digest] = asyncio.get_running_loop().create_future()
            if self._looking_up is None or self._looking_up.done():
                self._looking_up = asyncio.create_task(self._find_wanted(), name="look-up-keys")
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT_S):
                found = await asyncio.shield(future)
        except TimeoutError as error:
            raise Unavailable("the key cannot be checked now: try again") from error
        if isinstance(found, Unavailable):
            raise Unavailable(found.detail) from found
        if isinstance(found, Exception):
            raise found
        return found

    async def _find_wanted(self) -> None:
        """Look up the wanted keys until there are none. An error is handed to the calls that wait."""
        while self._wanted:
            digests = list(islice(self._wanted, MAX_LOOKED_UP))
            found: Mapping[bytes, Key | Exception]
            try:
                found = await find_keys(self._database, digests)
            except Exception as error:  # noqa: BLE001 - each call raises it
                found = dict.fromkeys(digests, error)
            for digest in digests:
                self._wanted.pop(digest).set_result(found.get(digest))

    def uses(self) -> Iterator[tuple[str, float]]:
        """Yield the id of each valid key in the cache, and when it was last used, by the monotonic clock."""
        now = time.time()
        for entry in self._known.values():
            if entry.key.expires_at is None or entry.key.expires_at > now:
                yield entry.key.id, entry.used_at

    def soonest_end(self) -> float:
        """Return when the first of the cached keys expires that are valid now, in seconds since 1970.

        Infinity: none of them expires.
        """
        now = time.time()
        ends = (entry.key.expires_at for entry in self._known.values())
        return min((end for end in ends if end is not None and end > now), default=math.inf)

    async def aclose(self) -> None:
        """Cancel the look-up if one is running."""
        if self._looking_up is not None:
            self._looking_up.cancel()
            await asyncio.wait({self._looking_up})

    async def refresh_forever(self) -> None:
        """Read the cached keys again every REFRESH_INTERVAL_S, so that calls need not wait for a query."""
        problem = LastingProblem(log, "keys.refresh_failed", "keys.refresh_recovered")
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            now = time.monotonic()
            for digest in [d for d, entry in self._known.items() if entry.used_at < now - IDLE_S]:
                del self._known[digest]
            try:
                if await self._refresh(now):
                    problem.note_success()
            except Exception as error:  # noqa: BLE001 - any error: the next try may succeed
                problem.note_failure(error)

    async def _refresh(self, now: float) -> bool:
        """Read the cached keys again; return False if there are none, so that nothing was read."""
        digests = list(self._known)
        if not digests:
            return False
        refreshed = self._measures.keys_refreshed
        try:
            found = await find_keys(self._database, digests)
        except Exception:
            refreshed["failed"] += len(digests)
            raise
        refreshed["valid"] += len(found)
        refreshed["revoked"] += len(digests) - len(found)
        for digest in digests:
            entry = self._known.get(digest)
            if digest not in found:
                self._known.pop(digest, None)
            elif entry is not None:  # None: a call has found it revoked meanwhile
                entry.key = found[digest]
                entry.read_at = now
        return True


def _presented(headers: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the strings with the form of a key in Authorization, then in X-API-KEY."""
    found: list[bytes] = []
    if authorization := headers.get(b"authorization"):
        found += _in_authorization(authorization)
    if x_api_key := headers.get(b"x-api-key"):
        found += _in_x_api_key(x_api_key)
    return list(dict.fromkeys(found))[:MAX_PRESENTED]


def _invalid(detail: str) -> EdgeError:
    return EdgeError("invalid_key", detail)
