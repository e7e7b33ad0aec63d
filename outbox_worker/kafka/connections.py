"""aiokafka's connections with time limits for connecting, closing and a peer that does not answer.

Importing this module replaces aiokafka's own connections in every client of the process.

  * Connecting: one time limit for TCP, TLS, the exchange of versions and authentication together.
    Bootstrap servers that failed are tried last, so the limit of a silent one is waited for once.
  * Closing: the connection is aborted. A closing TLS connection waits for the peer's close_notify,
    up to 30 s (ssl_shutdown_timeout), and a broker sends none while a fetch is in flight.
  * TLS: each connection reads the certificates' files again, so a rotation needs no restart.
  * Sessions: a broker with connections.max.reauth.ms closes a connection that gets a request after
    the session's end. A connection is replaced before that, because aiokafka cannot authenticate
    again on an open one.
  * Errors: an unreachable broker is named, with the reason. aiokafka only reports that a node is not
    ready, or retries until the caller's time limit.
  * Idle connections: a NAT or a balancer may forget them without a reset. A request on such a
    connection gets no answer. So a connection that was idle is checked with a request for the
    broker's versions before it is used, and replaced if there is no answer.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple

from aiokafka import client, conn
from aiokafka.admin import client as admin
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer import consumer
from aiokafka.errors import KafkaConnectionError, KafkaError, UnknownTopicOrPartitionError
from aiokafka.producer import producer
from aiokafka.protocol.admin import ApiVersionRequest, SaslAuthenticateRequest

from outbox_worker.kafka import faults, tls

CONNECT_TIMEOUT_S = 4
"""A handshake with TLS and SCRAM takes five round trips; this is enough for 500 ms each."""
IDLE_S = 1.0
"""The time after which a connection is checked. Balancers keep idle connections for some seconds, and
under load no connection is idle for a second."""
ANSWER_TIMEOUT_S = 0.5
LONGEST_ANSWER_S = 1.5
"""The limits of a check. It may take twice the time that connecting took, within these two limits. They
are short, because a new connection is cheap."""
SESSION_USED = 0.85
"""The part of a session after which its connection is replaced. Java's client uses 85 to 95 %."""
FAILURE_AGE_S = 30
"""The time for which a failed connection explains other errors: clients retry within the metadata's age."""
LIMITS = {"request_timeout_ms": 5_000, "metadata_max_age_ms": 30_000}
"""Arguments of every client. A request that is not answered within the time-out is sent again on a new
connection, because a network may have forgotten the first one. A client learns of new addresses of
brokers within the age of the metadata."""


class Failure(NamedTuple):
    """The time and the error of a failed connection; None: no answer within the time limit."""

    at: float = -math.inf
    error: BaseException | None = None


class Connection(AIOKafkaConnection):  # type: ignore[misc] # aiokafka has no types
    """A connection to one broker."""

    # The last failure to connect to each address, with the time of time.monotonic().
    failed: dict[tuple[str, int], "Failure"] = {}  # noqa: RUF012 - all clients of the process share it
    _answer_timeout_s = ANSWER_TIMEOUT_S
    _usable_until = math.inf
    _ssl_context: Any

    async def connect(self) -> Any:  # noqa: ANN401 - as aiokafka's
        """Connect and authenticate within CONNECT_TIMEOUT_S."""
        address = (self.host, self.port)
        began = time.monotonic()
        try:
            if isinstance(self._ssl_context, tls.Files):
                self._ssl_context = self._ssl_context.context()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connected = await super().connect()
        except TimeoutError as error:
            self.failed[address] = Failure(time.monotonic())
            message = f"{self.host}:{self.port} did not answer within {CONNECT_TIMEOUT_S} s"
            raise KafkaConnectionError(message) from error
        except (OSError, KafkaError) as error:
            self.failed[address] = Failure(time.monotonic(), error)
            raise
        except asyncio.CancelledError:  # the caller's time limit came first
            self.failed[address] = Failure(time.monotonic())
            raise
        self.failed.pop(address, None)
        took_s = time.monotonic() - began
        self._answer_timeout_s = min(max(ANSWER_TIMEOUT_S, 2 * took_s), LONGEST_ANSWER_S)
        return connected

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:  # noqa: ANN401 - as aiokafka's
        """Abort the connection without sending what is still in its buffer."""
        if self._writer is not None:
            self._writer.transport.abort()
        return super().close(reason, exc)

    def send(self, request: Any, expect_response: bool = True) -> Any:  # noqa: ANN401, FBT001, FBT002 - as aiokafka's
        """Send a request; KafkaConnectionError if the connection is closed.

        aiokafka expects an OSError of a closed transport; uvloop's raises RuntimeError.
        """
        try:
            answer = super().send(request, expect_response)
        except RuntimeError as error:
            self.close(CloseReason.CONNECTION_BROKEN)
            message = f"the connection to {self.host}:{self.port} is closed"
            raise KafkaConnectionError(message) from error
        return (
            self._authenticated(answer) if isinstance(request, SaslAuthenticateRequest) else answer
        )

    async def _authenticated(self, answer: Awaitable[Any]) -> Any:  # noqa: ANN401 - as aiokafka's
        """Return the answer, and note how long the session lasts; 0: without limit."""
        response = await answer
        if lifetime_ms := getattr(response, "session_lifetime_ms", 0):
            self._usable_until = time.monotonic() + SESSION_USED * lifetime_ms / 1000
        return response

    def is_expiring(self) -> bool:
        """Whether the session ends soon."""
        return time.monotonic() > self._usable_until

    def retire(self) -> None:
        """Close the connection when each request in flight is answered or has timed out."""
        self._loop.call_later(LIMITS["request_timeout_ms"] / 1000, self.close)

    async def check(self) -> None:
        """Close the connection if it has been idle and the broker does not answer on it."""
        idle_s = time.monotonic() - self._last_action
        if not self.connected() or self._requests or idle_s < IDLE_S:
            return
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                await self.send(ApiVersionRequest())
        except (KafkaError, OSError, TimeoutError):
            self.close(CloseReason.CONNECTION_TIMEOUT)


class Client(client.AIOKafkaClient):  # type: ignore[misc] # aiokafka has no types
    """The connections of one producer, consumer or administration client."""

    @property
    def hosts(self) -> list[Any]:
        """The bootstrap servers in random order; those that failed come last."""
        return sorted(super().hosts, key=lambda host: self._failure(host[0], host[1]).at)

    async def bootstrap(self) -> None:
        """Connect to the first bootstrap server that answers; if none does, explain each failure."""
        try:
            await super().bootstrap()
        except KafkaConnectionError as error:
            addresses = sorted((host, port) for host, port, _ in self.hosts)
            raise KafkaConnectionError(await self._explain(addresses)) from error

    async def unreachable_brokers(self) -> KafkaConnectionError | None:
        """Return an error that explains each unreachable broker; None if there was no recent failure."""
        recent = time.monotonic() - FAILURE_AGE_S
        addresses = [(broker.host, broker.port) for broker in self.cluster.brokers()]
        failed = sorted(each for each in addresses if self._failure(*each).at > recent)
        return KafkaConnectionError(await self._explain(failed)) if failed else None

    async def _explain(self, addresses: Sequence[tuple[str, int]]) -> str:
        security = faults.Security(
            self._security_protocol,
            self._sasl_mechanism,
            has_certificate=self._ssl_context is not None and bool(self._ssl_context.certificate),
        )
        named = {(host, port) for host, port, _ in self.hosts}
        explained = [
            faults.explain(
                self._failure(*address).error,
                faults.Address(*address, advertised=address not in named, security=security),
            )
            for address in addresses
        ]
        return "; ".join(await asyncio.gather(*explained))

    def _failure(self, host: str, port: int) -> "Failure":
        return Connection.failed.get((host, port), Failure())

    async def _wait_on_metadata(self, topic: str) -> Any:  # noqa: ANN401 - as aiokafka's
        """Return the topic's partitions; KafkaConnectionError if a broker is unreachable."""
        try:
            return await super()._wait_on_metadata(topic)
        except UnknownTopicOrPartitionError as error:
            raise await self.unreachable_brokers() or UnknownTopicOrPartitionError(topic) from error

    async def _get_conn(self, node_id: Any, **options: Any) -> Any:  # noqa: ANN401 - as aiokafka's
        group = options.get("group", client.ConnectionGroup.DEFAULT)
        if (connection := self._conns.get((node_id, group))) is not None:
            if connection.is_expiring():
                self._conns.pop((node_id, group)).retire()
            else:
                await connection.check()
        return await super()._get_conn(node_id, **options)


# aiokafka has no parameter for these classes. It looks up both names when it makes an object.
conn.AIOKafkaConnection = Connection
for user in (admin, consumer, producer):
    user.AIOKafkaClient = Client
