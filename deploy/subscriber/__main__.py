"""Keeps a table of all active links in a Postgres of its own. README.md says how to run it."""

import argparse
import asyncio
import os
import signal
import sys
from typing import Any, Final
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)

from .table import SCHEMA, HaltError, Table
from .verify import ServiceError, compare

REQUIRED: Final = ("KAFKA_BOOTSTRAP_SERVERS", "SUBSCRIBER_DATABASE_URL")
HALTED: Final = 3
"""The exit code when the program cannot go on without an operator."""
POLL_MS: Final = 1_000
COMMAND_TIMEOUT_S: Final = 300
"""How long a statement may take: that which writes all links of a snapshot takes the longest."""
ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtext('document links subscriber'))"
ALONE: Final = "LOCK TABLE positions IN EXCLUSIVE MODE"
"""Members wait meanwhile: a topic of snapshots or replays may have other partitions than the live topic."""
RESET: Final = "DELETE FROM held; DELETE FROM documents; DELETE FROM positions"
MADE: Final = "SELECT to_regclass('held') IS NOT NULL"
POSITIONS: Final = "SELECT count(*) FROM positions"
INCOMPLETE: Final = "SELECT array_agg(partition) FROM positions WHERE snapshot IS NOT NULL"


def consumer(reset: str, *topics: str, **options: Any) -> AIOKafkaConsumer:  # noqa: ANN401 - aiokafka's
    """Return a consumer of committed records. For a cluster with TLS or passwords, add its options here."""
    servers = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    options |= {"isolation_level": "read_committed", "enable_auto_commit": False}
    return AIOKafkaConsumer(*topics, bootstrap_servers=servers, auto_offset_reset=reset, **options)


async def follow(table: Table) -> None:
    """Apply the records of the partitions that the group gives to this member, without an end."""
    group = {
        "group_id": os.environ.get("SUBSCRIBER_GROUP", "active-links"),
        "group_instance_id": os.environ.get("SUBSCRIBER_INSTANCE"),
    }
    # The group has no offsets, and "none" lets nothing replace the table's: neither a new partition nor
    # one whose offset the topic does not have is read from elsewhere.
    topic = consumer("none", **group)
    topic.subscribe([table.topic], listener=Given(table))
    async with topic:
        while True:
            try:
                batches = await topic.getmany(timeout_ms=POLL_MS)
            except NoOffsetForPartitionError as error:  # this member has been given a partition
                await seek(topic, table, error.args[0])
                continue
            except OffsetOutOfRangeError as error:
                ((place, offset),) = error.args[0].items()
                if offset == await table.position(place.partition):
                    message = f"{table.topic} has no record at {error.args[0]}: see README.md"
                    raise HaltError(message) from error
                await seek(topic, table, place)  # the offset was not the table's
                continue
            for place, records in batches.items():
                if not await table.apply(records):
                    await seek(topic, table, place)


class Given(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types
    """Makes the table refuse records until `seek`: the group may have offsets of another program."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def on_partitions_revoked(self, revoked: object) -> None:
        """Do nothing."""

    def on_partitions_assigned(self, assigned: object) -> None:  # noqa: ARG002 - aiokafka's
        """Forget where the partitions were left."""
        self._table.given()


async def seek(topic: AIOKafkaConsumer, table: Table, place: TopicPartition) -> None:
    """Read on at the table's position if the partition still belongs to this member."""
    offset = await table.position(place.partition)
    if place in topic.assignment():
        topic.seek(place, offset)
        print(f"{place.topic} partition {place.partition}: reading from {offset}", flush=True)


async def load(table: Table, kind: str) -> None:
    """Apply the topic of the snapshot or of the replays in one transaction: all of it or nothing."""
    name = f"{table.topic}.{kind}"
    transaction = table.db.transaction(isolation="read_committed")
    async with consumer("earliest", name) as topic, transaction:
        await table.db.execute(ALONE)
        if kind == "snapshot":
            await table.db.execute(RESET)
        places = topic.assignment()
        ends = await topic.end_offsets(places)
        while [each for each in places if await topic.position(each) < ends[each]]:
            for place, records in (await topic.getmany(timeout_ms=POLL_MS)).items():
                if within := [record for record in records if record.offset < ends[place]]:
                    await table.apply(within)
        if partitions := await table.db.fetchval(INCOMPLETE):
            raise HaltError(f"a snapshot has begun and not ended in the partitions {partitions}")
        whole = len(table.snapshots) == len(places) and len(set(table.snapshots.values())) == 1
        if kind == "snapshot" and not whole:
            raise HaltError(f"{name} has no complete snapshot")
        if kind == "snapshot" and (live := await table.db.fetchval(POSITIONS)) != len(places):
            raise HaltError(
                f"{name} has {len(places)} partitions, and the relay uses {live} of {table.topic}: "
                "a document must have the same partition in both"
            )


async def main(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task  # noqa: S101 - this is one
    for number in (signal.SIGINT, signal.SIGTERM):  # leave the group: others read on at once
        loop.add_signal_handler(number, task.cancel)
    url = os.environ["SUBSCRIBER_DATABASE_URL"]
    db = await asyncpg.connect(url, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with db.transaction():
            await db.execute(ONE_AT_A_TIME)
            if not await db.fetchval(MADE):
                await db.execute(SCHEMA)
        table = Table(db, os.environ.get("SUBSCRIBER_TOPIC", "document-links"))
        if arguments.verify:
            await compare(db, str(arguments.verify), os.environ["URL"], os.environ["KEY"])
        elif arguments.load:
            await load(table, arguments.load)
        else:
            await follow(table)
    finally:
        await db.close(timeout=5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, does in {
        "snapshot": "replace the table by",
        "replay": "apply what is missing of",
    }.items():
        text = f"{does} <topic>.{kind}"
        parser.add_argument(f"--{kind}", dest="load", action="store_const", const=kind, help=text)
    parser.add_argument(
        "--verify", type=UUID, metavar="WORKSPACE", help="compare the table with the service"
    )
    given = parser.parse_args()
    for name in (*REQUIRED, *(("URL", "KEY") if given.verify else ())):
        if name not in os.environ:
            parser.error(f"{name} is not set")
    try:
        asyncio.run(main(given))
    except asyncio.CancelledError:
        if given.verify or given.load:
            sys.exit("interrupted")
    except UnknownTopicOrPartitionError:
        sys.exit("the topic does not exist")
    except (KafkaConnectionError, ServiceError) as error:
        sys.exit(str(error))
    except HaltError as error:
        print(f"halted: {error}", file=sys.stderr)
        sys.exit(HALTED)
