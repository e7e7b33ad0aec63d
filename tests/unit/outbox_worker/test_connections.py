"""Connections to Kafka on uvloop, which raises errors that aiokafka does not expect."""

import asyncio

import pytest
import uvloop
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from outbox_worker.kafka.connections import Connection
from tests.support.waiting import until


def test_request_on_a_closed_transport_is_a_connection_error() -> None:
    """A request on a connection that was just reset raises a connection error."""

    async def send_after_a_reset() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        connection = Connection(host, port)
        _, writer = await asyncio.open_connection(host, port)
        connection._writer = writer  # noqa: SLF001 - as connect() does
        writer.transport.abort()

        async def closed() -> bool:
            return bool(writer.transport.get_extra_info("socket").fileno() == -1)

        await until(closed)
        with pytest.raises(KafkaConnectionError, match="is closed"):
            connection.send(ApiVersionRequest())
        server.close()

    uvloop.run(asyncio.wait_for(send_after_a_reset(), 10))
