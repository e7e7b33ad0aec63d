"""A caller that links at a steady rate, whatever the answers take: a process of its own.

`python -m tests.benchmarks.steady` reads its orders from standard input as JSON and writes
the moments of the answers to standard output (CLOCK_MONOTONIC, one clock for the machine).
"""

import asyncio
import gc
import sys
import time

import msgspec
import uvloop

from tests.support.streams import close

CONNECTIONS = 16


class Orders(msgspec.Struct):
    """What to link, how fast."""

    host: str
    port: int
    key: str
    rate: int
    links: list[tuple[str, str]]
    """Document and deal, each pair new."""


async def _links(orders: Orders) -> list[int]:
    answered = [0] * len(orders.links)
    requests = [_request(orders, *link) for link in orders.links]
    numbers = iter(range(len(requests)))
    began = time.monotonic()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(orders.host, orders.port)
        for number in numbers:
            due = began + number / orders.rate
            await asyncio.sleep(max(0, due - time.monotonic()))
            writer.write(requests[number])
            await _created(reader)
            answered[number] = time.monotonic_ns()
        await close(writer)

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return answered


def _request(orders: Orders, document: str, deal: str) -> bytes:
    body = f'{{"entity_type":"deal","entity_id":"{deal}","role":"signed"}}'
    return (
        f"POST /v1/documents/{document}/link HTTP/1.1\r\nHost: {orders.host}\r\n"
        f"Authorization: Bearer {orders.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def _created(reader: asyncio.StreamReader) -> None:
    """Read one answer to its end; RuntimeError unless it is 201."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().splitlines()
        if line.startswith(b"content-length:")
    )
    await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 201"):
        raise RuntimeError(head.decode())


def main() -> None:
    """Do as ordered."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    gc.disable()  # a pause here would look like one of the service
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_links(orders))))


if __name__ == "__main__":
    main()
