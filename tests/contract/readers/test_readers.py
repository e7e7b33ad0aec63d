"""Each compression of the topic, read by the Java client, librdkafka and aiokafka."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.readers import librdkafka
from tests.contract.readers.conftest import COMPRESSIONS, Published, in_order
from tests.contract.readers.java_client import JavaReader

WITHOUT_CRAMJAM = """
import sys, asyncio
sys.modules["cramjam"] = None
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import UnsupportedCodecError
async def main():
    kafka, topic = sys.argv[1:]
    earliest = {"auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(topic, bootstrap_servers=kafka, **earliest) as consumer:
        try:
            print(len((await consumer.getone()).value) > 0)
        except UnsupportedCodecError:
            print("UnsupportedCodecError")
asyncio.run(main())
"""
NEEDS_CRAMJAM = {"snappy", "lz4", "zstd"}
README = Path(__file__).parents[3] / "README.md"

pytestmark = pytest.mark.timeout(300)


async def test_the_java_client_reads_it(published: Published, java_reader: JavaReader) -> None:
    """A group reads committed records once over a restart, and a seek the rest of a partition."""
    topic, records = published.topic, published.records

    async def read(*arguments: str | int) -> list[dict[str, Any]]:
        found = await asyncio.to_thread(java_reader.read, published.kafka, *arguments)
        return [without_event(each) for each in found]

    half = len(records) // 2
    first = await read("group", topic, f"{topic}-java", half)
    second = await read("group", topic, f"{topic}-java", len(records) - half)
    assert in_order(first + second) == records
    middle = records[len(records) // 4]
    rest = await read("seek", topic, middle["partition"], middle["offset"])
    assert rest == from_(records, middle)


async def test_librdkafka_reads_it(published: Published) -> None:
    """A group reads committed records once over a restart, and a seek the rest of a partition."""
    kafka, topic, records = published.kafka, published.topic, published.records
    name, half = f"{topic}-librdkafka", len(records) // 2
    first = await asyncio.to_thread(librdkafka.group, kafka, topic, name, half)
    second = await asyncio.to_thread(librdkafka.group, kafka, topic, name, len(records) - half)
    assert in_order(first + second) == records
    middle = records[len(records) // 4]
    rest = await asyncio.to_thread(
        librdkafka.seek, kafka, topic, middle["partition"], middle["offset"]
    )
    assert rest == from_(records, middle)


async def test_aiokafka_needs_cramjam(published: Published) -> None:
    """Without the package it reads no compression and gzip; the others are its UnsupportedCodecError."""
    command = [sys.executable, "-c", WITHOUT_CRAMJAM, published.kafka, published.topic]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    expected = "UnsupportedCodecError" if published.compression in NEEDS_CRAMJAM else "True"
    assert done.stdout.strip() == expected, done.stderr


def test_the_readme_says_so() -> None:
    """Its table has the result of each test above."""
    lines = [line.strip("| ") for line in README.read_text().splitlines()]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    at = next(n for n, row in enumerate(rows) if row[0] == "client")
    assert [name.strip("`") for name in rows[at][1:]] == list(COMPRESSIONS)
    java, librdkafka_, aiokafka = (cells for _, *cells in rows[at + 2 : at + 5])
    assert java == librdkafka_ == ["yes"] * len(COMPRESSIONS)
    assert aiokafka == [
        "with `cramjam`" if each in NEEDS_CRAMJAM else "yes" for each in COMPRESSIONS
    ]


def without_event(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without what Java's SDK and validator found."""
    return {name: value for name, value in record.items() if name not in {"event", "errors"}}


def from_(records: list[dict[str, Any]], first: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a partition from one on."""
    return [
        each
        for each in records
        if each["partition"] == first["partition"] and each["offset"] >= first["offset"]
    ]
