"""A proxy before Postgres that counts the round trips and statements of each session."""

import asyncio
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, Self

from tests.support.faults.tcp import Connection, FaultyProxy, Way

_LENGTH: Final = struct.Struct("!I")
_WAITS: Final = {b"Q", b"S", b"H"}
"""Messages after which a client waits for the server: a simple query, Sync and Flush."""
_QUERY: Final = b"Q"
_PARSE: Final = b"P"
_BIND: Final = b"B"
_ROW: Final = b"D"
_COMPLETE: Final = b"C"
_READY: Final = b"Z"
_IN_NO_TRANSACTION: Final = b"I"


@dataclass(eq=False)
class Session:
    """The state of a session, as its messages show it."""

    started: bool = False
    idle: bool = False
    """The session waits for no answer and is in no transaction."""
    in_transaction: bool = False
    """The last answer has left the session in a transaction."""
    prepared: dict[bytes, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """The SQL of the round trip that is under way."""


@dataclass
class Trip:
    """A round trip: the messages of a session before it waited, and the server's answer."""

    session: Session
    sql: str
    in_transaction: bool
    """The round trip is a part of a transaction that was begun by BEGIN."""
    statements: int = 0
    rows: int = 0


class CountingProxy(FaultyProxy):
    """A proxy to Postgres; `trips` has all round trips so far."""

    async def __aenter__(self) -> Self:
        """Start listening."""
        self.trips: list[Trip] = []
        self._sessions: defaultdict[Connection, Session] = defaultdict(Session)
        return await super().__aenter__()

    async def quiet(self) -> bool:
        """Whether all sessions are idle; a condition for `until`."""
        return all(session.idle for session in self._sessions.values())

    def _ended(self, connection: Connection) -> None:
        self._sessions.pop(connection, None)

    async def _read(self, way: Way, reader: asyncio.StreamReader, connection: Connection) -> bytes:
        """Return the next message: a type of one byte, a length that includes itself, and a body."""
        session = self._sessions[connection]
        kind = await reader.readexactly(1) if session.started or way == "response" else b""
        length = await reader.readexactly(_LENGTH.size)
        body = await reader.readexactly(_LENGTH.unpack(length)[0] - _LENGTH.size)
        if way == "request":
            self._sent(session, kind, body)
        else:
            self._received(session, kind, body)
        return kind + length + body

    def _sent(self, session: Session, kind: bytes, body: bytes) -> None:
        session.started, session.idle = True, False
        if kind == _QUERY:
            session.asked.append(body.rstrip(b"\0").decode())
        elif kind == _PARSE:
            name, sql, *_ = body.split(b"\0", 2)
            session.prepared[name] = sql.decode()
        elif kind == _BIND:
            _, name, *_ = body.split(b"\0", 2)
            session.asked.append(session.prepared[name])
        if kind in _WAITS:
            self.trips.append(Trip(session, "; ".join(session.asked), session.in_transaction))
            session.asked.clear()

    def _received(self, session: Session, kind: bytes, body: bytes) -> None:
        if kind == _READY:
            session.idle = body == _IN_NO_TRANSACTION
            session.in_transaction = not session.idle
        if kind not in {_READY, _ROW, _COMPLETE}:
            return
        for trip in reversed(self.trips):  # a session is ready once before its first round trip
            if trip.session is session:
                trip.rows += kind == _ROW
                trip.statements += kind == _COMPLETE
                trip.in_transaction |= session.in_transaction
                break
