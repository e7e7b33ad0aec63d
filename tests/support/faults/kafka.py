"""A faulty proxy before a Kafka broker that reads each request and response."""

import asyncio
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Self

from tests.support.faults.tcp import Connection, FaultyProxy, Way

PRODUCE = 0
ADD_PARTITIONS_TO_TXN = 24
END_TXN = 26
_LENGTH = struct.Struct(">i")
_HEADER = struct.Struct(">hhi")  # API key, its version, correlation id

Watch = Callable[[Way, int], Awaitable[bool]]
"""Gets the direction and the API key of a message; returns whether the proxy passes it on."""


class KafkaProxy(FaultyProxy):
    """A faulty proxy. While `watch` is set, it is called for each message."""

    watch: Watch | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        # The API keys of each connection's requests, by correlation id.
        self._keys: defaultdict[Connection, dict[int, int]] = defaultdict(dict)
        return await super().__aenter__()

    def _ended(self, connection: Connection) -> None:
        self._keys.pop(connection, None)

    async def _read(self, way: Way, reader: asyncio.StreamReader, connection: Connection) -> bytes:
        """Return the next request or response; without `watch`, the next bytes."""
        while self.watch is not None:
            length = await reader.readexactly(_LENGTH.size)
            body = await reader.readexactly(_LENGTH.unpack(length)[0])
            if await self.watch(way, self._key(way, body, connection)):
                return length + body
        return await super()._read(way, reader, connection)

    def _key(self, way: Way, body: bytes, connection: Connection) -> int:
        """Return the API key of a message. A response has only its request's correlation id."""
        if way == "request":
            key, _, number = _HEADER.unpack_from(body)
            self._keys[connection][number] = key
        else:
            key = self._keys[connection].pop(_LENGTH.unpack_from(body)[0], -1)
        return int(key)
