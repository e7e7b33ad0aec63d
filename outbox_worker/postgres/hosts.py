"""Finds the host and the address that accept a connection. Both programs have the same file."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from .url import Host

HOST_TIMEOUT_S: Final = 2
"""The longest wait until an address has accepted a connection. `connect_timeout` can make it shorter."""
STAGGER_S: Final = 0.5
"""The pause before the next host or address is tried; the attempts before it go on meanwhile."""

NEXT_HOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting up, shutting down
    asyncpg.TooManyConnectionsError,
)
"""Errors after which another host or address may accept the connection."""

C = TypeVar("C", bound=asyncpg.Connection)


class LoopTo:
    """The event loop, except that it connects to a given address instead of the host's name.

    asyncpg tries the addresses of a name one after the other, without a time limit for each. It cannot be
    given an address as the host, because TLS verifies the certificate against the host's name. asyncio's
    happy eyeballs do not notice a server that accepts a connection and never answers. If `address` is
    None, the loop resolves the host's name.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the loop
        found = getattr(self._loop, name)
        setattr(self, name, found)  # asyncpg uses some of them for each statement
        return found

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        **options: Any,  # noqa: ANN401 - the loop's
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Connect to the address; TLS verifies the certificate against the host's name.

        A cancellation after TCP has connected loses the protocol that asyncpg would ask about TLS. Its
        future `on_data` then gets an error that is never retrieved and that asyncio would log.
        """
        made: list[asyncio.BaseProtocol] = []

        def protocol() -> asyncio.BaseProtocol:
            made.append(protocol_factory())
            return made[-1]

        if options.get("ssl"):
            options = {"server_hostname": host} | options
        try:
            return await self._loop.create_connection(
                protocol, self._address or host, port, **options
            )
        except BaseException:
            for each in made:
                if asks_about_tls := getattr(each, "on_data", None):
                    asks_about_tls.cancel()
            raise


async def first(attempts: Sequence[Callable[[], Coroutine[Any, Any, C]]]) -> C:
    """Return the first connection; every STAGGER_S, or after a failure, another attempt begins.

    Raises:
        ERRORS: no attempt succeeds.
    """
    waiting, running = list(attempts), set[asyncio.Task[C]]()
    failures: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(waiting.pop(0)()))
            await asyncio.wait(
                running, timeout=STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in running if task.done()]:
                running.remove(task)
                try:
                    return task.result()
                except NEXT_HOST as failure:
                    failures.append(failure)
    finally:
        for task in running:
            task.add_done_callback(_drop)
            task.cancel()
    if len(failures) == 1:
        raise failures[0]
    raise ConnectionError("; ".join(map(str, failures))) from failures[-1]


async def addresses_of(host: Host, where: str) -> list[str | None]:
    """Return the addresses of a host; None: there is one at most, and the loop finds it."""
    if host.name is None or host.name.startswith("/"):
        return [None]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(HOST_TIMEOUT_S):
            found = await loop.getaddrinfo(host.name, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        message = f"{where}: the name service does not answer within {HOST_TIMEOUT_S} s"
        raise TimeoutError(message) from None
    except OSError as error:
        raise ConnectionError(f"{where}: the name is not known ({error})") from error
    addresses: list[str | None] = [str(address[0]) for *_, address in found]
    return [None] if len(set(addresses)) == 1 else list(dict.fromkeys(addresses))


def _drop(attempt: asyncio.Task[C]) -> None:
    """Close the connection of an attempt that succeeded too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
