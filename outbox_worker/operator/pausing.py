"""`pause` and `resume`: let the leader publish nothing for a while, across restarts and take-overs."""

import asyncio
import getpass
import os
import socket
import time

import asyncpg
import msgspec

from outbox_worker.operator import terminal
from outbox_worker.postgres import pause as pauses
from outbox_worker.postgres.registration import registered
from outbox_worker.postgres.sessions import session
from outbox_worker.relay.leader import OF_THE_HOLDER
from outbox_worker.relay.pausing import CONFIRMED
from outbox_worker.settings import Settings

TIMEOUT_S = 30
CONFIRMED_WITHIN_S = 20
"""The longest wait for the leader. It reads the pause within 1 s, finishes a page within 9 s, or fails and
takes over again, and confirms within another second."""
POLL_S = 0.25
UNCONFIRMED = (
    f"the pause is recorded, but the leader has not confirmed it within {CONFIRMED_WITHIN_S} s. Either it "
    "cannot use Kafka, and publishes nothing, or it runs release 0.1.0, which ignores a pause, or lacks a "
    "right: see its log and `python -m outbox_worker doctor`"
)

# $1 the relay, $2 the name of a leader's session that has confirmed the pause.
LEADER_CONFIRMED = f"""
SELECT a.application_name = $2
{OF_THE_HOLDER}
"""


class Paused(msgspec.Struct):
    """The pause, and whether a leader has confirmed it; `confirmed` None: no worker leads."""

    since: float
    by: str
    confirmed: bool | None


class Resumed(msgspec.Struct):
    """The pause that has ended; `paused_s` None: the relay was not paused."""

    paused_s: float | None


def pause(*, as_json: terminal.Json = False) -> None:
    """Let the relay publish nothing until `resume`, also after a restart or a take-over.

    The command returns when the leader has finished the page in flight.
    """
    settings = terminal.settings()
    terminal.show(terminal.carry_out(_pause(settings)), _print_paused, as_json=as_json)


def resume(*, as_json: terminal.Json = False) -> None:
    """Let the relay publish again: all events since the pause, once and in order."""
    settings = terminal.settings()
    terminal.show(terminal.carry_out(_resume(settings)), _print_resumed, as_json=as_json)


async def _pause(settings: Settings) -> Paused:
    url = settings.session_database_url
    async with session(url, "pause", timeout_s=TIMEOUT_S) as connection:
        await pauses.begin(connection, _operator())
        found = await pauses.read(connection)
        if found is None:
            terminal.fail("another operator has resumed the relay meanwhile")
        deadline = time.monotonic() + CONFIRMED_WITHIN_S
        while (confirmed := await _confirmed(connection)) is False:
            if time.monotonic() > deadline:
                terminal.fail(UNCONFIRMED)
            await asyncio.sleep(POLL_S)
        return Paused(found.since, found.by, confirmed)


async def _confirmed(connection: asyncpg.Connection) -> bool | None:
    """Whether the leader has confirmed the pause; None: no worker leads."""
    registration = await registered(connection)
    if registration is None:
        return None
    confirmed: bool | None = await connection.fetchval(
        LEADER_CONFIRMED, registration.name, CONFIRMED
    )
    return confirmed


async def _resume(settings: Settings) -> Resumed:
    url = settings.session_database_url
    async with session(url, "resume", timeout_s=TIMEOUT_S) as connection:
        ended = await pauses.end(connection)
    return Resumed(None if ended is None else round(time.time() - ended.since, 1))


def _operator() -> str:
    """Return who runs the command: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _print_paused(paused: Paused) -> None:
    leader = "no worker leads now" if paused.confirmed is None else "the leader publishes nothing"
    terminal.say(f"paused since {terminal.utc(paused.since)} by {paused.by}; {leader}")


def _print_resumed(resumed: Resumed) -> None:
    if resumed.paused_s is None:
        terminal.say("the relay was not paused")
    else:
        terminal.say(f"resumed after {resumed.paused_s} s")
