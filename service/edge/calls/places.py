"""Places: one process works on a bounded number of calls at once. Others wait, and are refused in time.

Without the bound, a process with too many callers works on all their calls at once, and finishes each of
them late. With it, further calls wait in the order of their arrival, reads and writes alike. A call that has
waited for WAIT_S is refused. So while the processor is the limit, each caller is answered within about two
seconds, or learns that the service is overloaded. A call that waits for locks or for Postgres takes longer.

A waiting call costs memory only. It is not refused sooner, even if the queue is so long that it will be
refused: many callers try again at once, and a try costs half the processor time of a call that is answered.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from typing import Final, cast

from starlette.types import Message, Receive

from service.core.errors import Overloaded
from service.edge.calls.body import Disconnected
from service.measures import Measures

PLACES: Final = 128
"""Calls that one process works on at once. With 3,000 callers, 128 places answered 1.09 times as many calls
as 64: the writes in the queue share transactions. With more places each call takes longer."""
WAIT_S: Final = 1.4
"""The longest wait for a place. While the processor is the limit, a call with a place takes some 0.1 s, and
few take 0.5 s. After a shorter wait, callers that try again at once would come so often that refusing them
takes the processor from the calls that are answered."""
LONG_S: Final = 0.5
"""Time after which a call leaves its place to another one, and goes on without. It most likely waits for a
lock or for a slow database: then it does not use the processor, and one locked document must not stop the
calls on all others. The deletion of an entity and a large batch leave their places as well."""
LONG_CALLS: Final = 256
"""Calls that go on without a place. While there are so many, further calls keep their places."""
CHECK_INTERVAL_S: Final = 0.05
"""Time between two checks of WAIT_S and LONG_S: each may be exceeded by so much."""
OVERLOADED: Final = "the service has more calls than it can answer; nothing was written: try again"


class Place:
    """The right of one call to be worked on, and when it began, by the monotonic clock."""

    __slots__ = ("taken_at",)

    def __init__(self) -> None:
        self.taken_at = time.monotonic()


class Places:
    """The places of this process, and the calls that wait for one, in the order of arrival."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._calls = measures.calls_in_progress
        self._free = PLACES
        self._free_long = LONG_CALLS
        self._taken: dict[Place, None] = {}
        """The places in use, in the order in which they were taken."""
        self._waiting: deque[tuple[float, asyncio.Future[Place]]] = deque()
        """When each call began to wait, by the monotonic clock, and its future."""
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, receive: Receive) -> Place:
        """Return a place, at once if one is free; it has to be given back. `receive` is that of the call.

        Raises:
            Overloaded: no place has become free for the call within WAIT_S.
            Disconnected: the caller has closed the connection while the call waited.
        """
        if self._free and not self._waiting:
            place = self._new_place()
        else:
            place = await self._wait()
            if has_disconnected(receive):
                self._leave(place)
                raise Disconnected
        self._calls["working"] += 1
        return place

    def give_back(self, place: Place) -> None:
        """End the work on a call; the call that has waited for the longest time gets the place."""
        self._calls["working"] -= 1
        self._leave(place)

    async def _wait(self) -> Place:
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(CHECK_INTERVAL_S, self._check)
        future: asyncio.Future[Place] = loop.create_future()
        self._waiting.append((time.monotonic(), future))
        self._calls["waiting"] += 1
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                self._leave(future.result())  # the call got its place and was cancelled at once
            raise
        finally:
            self._calls["waiting"] -= 1

    def _new_place(self) -> Place:
        self._free -= 1
        place = Place()
        self._taken[place] = None
        return place

    def _leave(self, place: Place) -> None:
        if place in self._taken:
            del self._taken[place]
            self._free += 1
            self._fill()
        else:
            self._free_long += 1

    def _fill(self) -> None:
        """Give the free places to waiting calls."""
        while self._free and self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():  # a done one belongs to a call that was cancelled
                future.set_result(self._new_place())

    def _check(self) -> None:
        """Free the places of long calls, and refuse the calls that have waited for WAIT_S."""
        now = time.monotonic()
        while self._free_long and self._taken:
            oldest = next(iter(self._taken))
            if oldest.taken_at > now - LONG_S:
                break
            del self._taken[oldest]
            self._free_long -= 1
            self._free += 1
        self._fill()
        while self._waiting and self._waiting[0][0] <= now - WAIT_S:
            _, future = self._waiting.popleft()
            if not future.done():
                self._measures.calls_refused += 1
                future.set_exception(Overloaded(OVERLOADED))
        self._timer = None
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._check)


def has_disconnected(receive: Receive) -> bool:
    """Return whether the server says that the caller has closed the connection; never wait for the server."""
    message = cast("Coroutine[None, None, Message]", receive())
    try:
        message.send(None)
    except StopIteration as returned:
        return bool(returned.value["type"] == "http.disconnect")
    message.close()
    return False
