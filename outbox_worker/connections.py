"""Connections to Kafka: aiokafka's, with a bound on connecting, on closing and on a silent peer.

Importing this module puts them in the place of aiokafka's own, in every client of the process.

  * Connecting: one time limit for TCP, TLS, the versions and the password together. Bootstrap
    servers that failed are tried last, so that one of them that is silent costs its time once.
  * Closing: the connection is aborted. A closing TLS connection waits for the peer's close_notify,
    up to 30 s (ssl_shutdown_timeout), and a broker sends none while a fetch is in flight.
  * Idle connections: a NAT or a balancer forgets them without a reset. A request on such a
    connection is answered by nobody, so a connection that has been idle is asked for the broker's
    versions before it is used, and replaced if there is no answer.
"""

import asyncio
import time
from typing import Any, NamedTuple

from aiokafka import client, conn
from aiokafka.admin import client as admin
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer import consumer
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.producer import producer
from aiokafka.protocol.admin import ApiVersionRequest

from outbox_worker import faults

# A handshake with TLS and SCRAM takes five round trips: enough for 500 ms each.
CONNECT_TIMEOUT_S = 4
# Balancers forget connections after seconds at the least; under load nothing is ever asked.
IDLE_S = 1.0
# A new connection costs little, so a slow answer need not be waited for.
ANSWER_TIMEOUT_S = 0.5
# For every client. A request without an answer in this time is sent again on a new connection: it
# may be on one that a network forgot. New addresses of brokers are learnt within the metadata's age.
LIMITS = {"request_timeout_ms": 5_000, "metadata_max_age_ms": 30_000}


class Failure(NamedTuple):
    """When connecting failed, and with which error; None: there was no answer, or not for long."""

    at: float = 0.0
    error: BaseException | None = None


class Connection(AIOKafkaConnection):  # type: ignore[misc] # aiokafka has no types
    """A connection to one broker."""

    # When and how connecting to an address failed last, by time.monotonic().
    failed: dict[tuple[str, int], "Failure"] = {}  # noqa: RUF012 - of the process, on purpose

    async def connect(self) -> Any:  # noqa: ANN401 - as aiokafka's
        """Connect and authenticate within CONNECT_TIMEOUT_S."""
        address = (self.host, self.port)
        self.failed[address] = Failure(time.monotonic())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connected = await super().connect()
        except TimeoutError as error:
            message = f"{self.host}:{self.port} did not answer within {CONNECT_TIMEOUT_S} s"
            raise KafkaConnectionError(message) from error
        except (OSError, KafkaError) as error:
            self.failed[address] = Failure(time.monotonic(), error)
            raise
        self.failed.pop(address, None)
        return connected

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:  # noqa: ANN401 - as aiokafka's
        """Abort the connection; what was still to be written is lost."""
        if self._writer is not None:
            self._writer.transport.abort()
        return super().close(reason, exc)

    def send(self, request: Any, expect_response: bool = True) -> Any:  # noqa: ANN401, FBT001, FBT002 - as aiokafka's
        """Send a request; KafkaConnectionError if the connection is closed.

        aiokafka expects an OSError of a closed transport; uvloop's raises RuntimeError.
        """
        try:
            return super().send(request, expect_response)
        except RuntimeError as error:
            self.close(CloseReason.CONNECTION_BROKEN)
            message = f"the connection to {self.host}:{self.port} is closed"
            raise KafkaConnectionError(message) from error

    async def check(self) -> None:
        """Close the connection if it has been idle and the broker does not answer on it."""
        idle_s = time.monotonic() - self._last_action
        if not self.connected() or self._requests or idle_s < IDLE_S:
            return
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self.send(ApiVersionRequest())
        except (KafkaError, OSError, TimeoutError):
            self.close(CloseReason.CONNECTION_TIMEOUT)


class Client(client.AIOKafkaClient):  # type: ignore[misc] # aiokafka has no types
    """The connections of one producer, consumer or administration."""

    @property
    def hosts(self) -> list[Any]:
        """The bootstrap servers, in random order, those that failed last at the end."""
        return sorted(super().hosts, key=lambda host: self._failure(host[0], host[1]).at)

    async def bootstrap(self) -> None:
        """Connect to the first bootstrap server that works; say of each why none does."""
        try:
            await super().bootstrap()
        except KafkaConnectionError as error:
            explained = [self._explain(host, port) for host, port, _ in sorted(self.hosts)]
            raise KafkaConnectionError("; ".join(await asyncio.gather(*explained))) from error

    async def _explain(self, host: str, port: int) -> str:
        address = faults.Address(host, port, self._security_protocol, self._sasl_mechanism)
        return await faults.explain(self._failure(host, port).error, address)

    def _failure(self, host: str, port: int) -> "Failure":
        return Connection.failed.get((host, port), Failure())

    async def _get_conn(self, node_id: Any, **options: Any) -> Any:  # noqa: ANN401 - as aiokafka's
        group = options.get("group", client.ConnectionGroup.DEFAULT)
        if (connection := self._conns.get((node_id, group))) is not None:
            await connection.check()
        return await super()._get_conn(node_id, **options)


# aiokafka has no parameter for either; both are looked up by name when they are made.
conn.AIOKafkaConnection = Connection
for user in (admin, consumer, producer):
    user.AIOKafkaClient = Client
