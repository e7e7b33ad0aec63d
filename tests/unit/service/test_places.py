"""The places of a process: their order, their bounds, and the calls that give up."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
from starlette.types import Message, Receive
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.core.errors import Overloaded
from service.edge.calls.body import Disconnected
from service.edge.calls.places import Place, Places, has_disconnected
from service.measures import Measures
from tests.support.waiting import BUSY_S, until


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process have two places, and two long calls."""
    monkeypatch.setattr("service.edge.calls.places.PLACES", 2)
    monkeypatch.setattr("service.edge.calls.places.LONG_CALLS", 2)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls keep their places, and wait for one, for as long as a test takes."""
    monkeypatch.setattr("service.edge.calls.places.WAIT_S", 1e6)
    monkeypatch.setattr("service.edge.calls.places.LONG_S", 1e6)


async def connected() -> Message:
    """Wait for ever: the caller sends nothing more, and keeps the connection."""
    await asyncio.Event().wait()
    raise AssertionError


async def unread() -> Message:
    """Return the body of a call that has none, as uvicorn does until it was asked for."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def gone() -> Message:
    """Tell that the caller has closed the connection."""
    return {"type": "http.disconnect"}


async def holds(look: Callable[[], bool]) -> None:
    """Wait until a condition holds."""

    async def check() -> bool:
        return look()

    await until(check)


async def begin(places: Places, measures: Measures, waiting: int) -> asyncio.Task[Place]:
    """Begin to wait for a place; return when so many calls wait."""
    task = asyncio.create_task(places.take(connected))
    await holds(lambda: measures.calls_in_progress["waiting"] == waiting)
    return task


@pytest.mark.usefixtures("patient")
async def test_places_are_given_in_the_order_of_arrival() -> None:
    """A place that is given back goes to the call that has waited longest, not to one that arrives later."""
    places = Places(measures := Measures())
    held = [await places.take(connected) for _ in range(2)]
    waiting = [await begin(places, measures, number) for number in (1, 2, 3)]
    for place in held:
        places.give_back(place)
    late = asyncio.create_task(places.take(connected))
    first = [await task for task in waiting[:2]]
    assert not waiting[2].done()
    places.give_back(first[0])
    places.give_back(await waiting[2])
    places.give_back(await late)
    places.give_back(first[1])
    assert measures.calls_in_progress == {"working": 0, "waiting": 0}


async def test_a_call_that_waits_for_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without a place is refused within two seconds, and its turn is nobody's any more."""
    monkeypatch.setattr("service.edge.calls.places.LONG_S", 1e6)
    places = Places(measures := Measures())
    held = [await places.take(connected) for _ in range(2)]
    began = time.monotonic()
    for refused in [asyncio.create_task(places.take(connected)) for _ in range(3)]:
        with pytest.raises(Overloaded, match="nothing was written"):
            await refused
    assert time.monotonic() - began < 2 + BUSY_S
    assert measures.calls_refused == 3
    for place in held:
        places.give_back(place)
    assert [await places.take(connected) for _ in range(2)]


@pytest.mark.usefixtures("patient")
async def test_calls_that_give_up_leave_their_turn() -> None:
    """A waiting call that is cancelled, or whose caller disconnects, takes no place from those behind it."""
    places = Places(measures := Measures())
    held = [await places.take(connected) for _ in range(2)]
    cancelled = [await begin(places, measures, number) for number in (1, 2)]
    left = asyncio.create_task(places.take(gone))
    await holds(lambda: measures.calls_in_progress["waiting"] == 3)
    behind = await begin(places, measures, 4)
    cancelled[0].cancel()
    await holds(cancelled[0].done)
    places.give_back(held[0])
    cancelled[1].cancel()  # its place is its own already, but it does not run
    with pytest.raises(Disconnected):
        await left
    places.give_back(await behind)
    places.give_back(held[1])
    assert [await places.take(connected) for _ in range(2)]
    assert measures.calls_in_progress == {"working": 2, "waiting": 0}


async def test_a_disconnect_is_seen_as_uvicorn_tells_it() -> None:
    """Of a call whose body was not asked for, or was, the server tells only a disconnect."""
    transport = asyncio.Transport()
    cycle = RequestResponseCycle(
        cast("HTTPScope", {}), transport, FlowControl(transport), logging.getLogger("uvicorn"),
        logging.getLogger("uvicorn.access"), access_log=False, default_headers=[],
        message_event=asyncio.Event(), expect_100_continue=False, keep_alive=True,
        on_response=lambda: None,
    )  # fmt: skip
    cycle.more_body = False
    cycle.message_event.set()
    receive = cast("Receive", cycle.receive)
    assert [has_disconnected(receive) for _ in range(3)] == [False] * 3
    cycle.disconnected = True
    assert has_disconnected(receive)


@pytest.mark.usefixtures("patient")
async def test_an_unread_message_is_no_disconnect() -> None:
    """A call without a body gets its place, though its body was never asked for."""
    places = Places(measures := Measures())
    held = [await places.take(unread) for _ in range(2)]
    waiting = asyncio.create_task(places.take(unread))
    await holds(lambda: measures.calls_in_progress["waiting"] == 1)
    places.give_back(held[0])
    places.give_back(await waiting)


async def test_long_calls_leave_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that take long leave their places to as many others, but not to more than the bound."""
    monkeypatch.setattr("service.edge.calls.places.LONG_S", 0.01)
    monkeypatch.setattr("service.edge.calls.places.WAIT_S", 0.5)
    places = Places(Measures())
    take = partial(places.take, connected)
    held = [await take() for _ in range(4)]  # the first two become long
    with pytest.raises(Overloaded):
        await take()
    places.give_back(held[0])  # a long one: now another can become long
    held.append(await take())
    for place in held[1:]:
        places.give_back(place)
    assert [await take() for _ in range(2)]
