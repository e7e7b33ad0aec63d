"""Ends of asyncio's streams.

`StreamWriter.close` alone is not enough: the transport stays open until its data is sent, or for ever if the
event loop ends before. Python then reports an unclosed socket in a later test.
"""

import asyncio
from contextlib import suppress


async def close(writer: asyncio.StreamWriter) -> None:
    """Send the data that is left; return when the connection is closed."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def abort(writer: asyncio.StreamWriter) -> None:
    """Drop the data that is left; return when the connection is closed."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
