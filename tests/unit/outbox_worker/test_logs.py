"""What asyncio reports is in the log."""

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


def test_errors_that_nobody_awaits_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever a future failed with that nobody awaited, Kafka's errors as any other, is in the log."""
    logs.configure()
    asyncio.run(forget(KafkaError("abandoned")))
    asyncio.run(forget(ValueError("a defect")))
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["traceback"] for line in lines] == [
        "aiokafka.errors.KafkaError: KafkaError: abandoned",
        "ValueError: a defect",
    ]
