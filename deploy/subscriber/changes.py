"""Appends each change of one document to a file, once, as a line of JSON. README.md says how to run it.

The file holds the position: its last line has the partition, the offset and the version of the last change.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

HALTED: Final = 3


def last_change(file: BinaryIO) -> dict[str, Any] | None:
    """Return the last line of the file; cut off a line that a kill has left incomplete."""
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        file.truncate(sum(map(len, lines[:-1])))
        lines.pop()
    last: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return last


async def follow(topic: str, key: str, file: BinaryIO) -> None:
    """Append the changes of the document with this key, `workspace_id/document_id`."""
    last = last_change(file)
    version = last["version"] if last else 0
    servers = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    reading = {"isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, **reading) as consumer:
        if last:  # all events of a document are in one partition
            place = TopicPartition(topic, last["partition"])
            consumer.seek(place, last["offset"] + 1)
            consumer.pause(*consumer.assignment() - {place})
        async for record in consumer:
            if record.key != key.encode() or "snapshot" in dict(record.headers):
                continue  # a snapshot has no changes
            event = json.loads(record.value)
            found = event["data"].get("document_version", 0)
            if found <= version:
                continue  # repeated
            if found > version + 1:
                sys.stderr.write(
                    f"version {found} of {key} after version {version}: see README.md\n"
                )
                sys.exit(HALTED)
            version = found
            change = {"partition": record.partition, "offset": record.offset, "version": version}
            file.write(json.dumps(change | {"event": event}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    if len(sys.argv) != 3:  # noqa: PLR2004 - the program, the key and the file
        sys.exit("usage: changes.py WORKSPACE_ID/DOCUMENT_ID FILE")
    with Path(sys.argv[2]).open("a+b") as changes:
        name = os.environ.get("SUBSCRIBER_TOPIC", "document-links")
        asyncio.run(follow(name, sys.argv[1], changes))
