"""What asyncio says of abandoned clients of Kafka stays out of the log; all else is in it."""

import asyncio
import gc
import json

import pytest
from aiokafka.errors import KafkaError

from outbox_worker import logs


async def forget(error: Exception) -> None:
    """Let a future fail that nobody awaits."""
    asyncio.get_running_loop().create_future().set_exception(error)
    gc.collect()


def test_future_that_aiokafka_left_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """Of two futures that nobody awaited, only the one that is not Kafka's is told."""
    logs.configure()
    asyncio.run(forget(KafkaError("abandoned")))
    asyncio.run(forget(ValueError("a defect")))
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert len(lines) == 1
    assert "a defect" in lines[0]["traceback"]
