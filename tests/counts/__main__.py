"""`make counts`: measures every operation anew and writes counts.json."""

import asyncio

import msgspec

from deploy.local.kafka import find_kafka
from tests.counts.measure import FILE, committed, differences, measure


def main() -> None:
    """Write the counts, and print which of them changed."""
    with find_kafka() as kafka:
        table = asyncio.run(measure(kafka.bootstrap))
    print(*differences(committed(), table) or ["no count has changed"], sep="\n")
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(table)) + b"\n")


if __name__ == "__main__":
    main()
