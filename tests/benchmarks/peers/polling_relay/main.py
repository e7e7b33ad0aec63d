"""A polling relay for a team's own outbox, with psycopg and confluent-kafka, as such a team would write it.

Runs in an environment of its own (requirements.txt), with DATABASE_URL, BROKERS, TOPIC and COMPRESSION. It
locks the oldest rows (FOR UPDATE SKIP LOCKED), publishes them, deletes them and commits: at least once, since
Postgres and Kafka have no transaction in common.
"""
# What it imports is not installed where mypy runs:
# mypy: ignore-errors
# A peer, in the manner of its kind, and no package of ours:
# ruff: noqa: INP001

import os
import time

import psycopg
from confluent_kafka import KafkaError, KafkaException, Message, Producer

BATCH = 5000
POLL_S = 0.005
"""The pause after a batch that was not full: as short as Debezium's in deploy/debezium."""
CONTENT_TYPE = [("content-type", b"application/cloudevents+json; charset=utf-8")]
OLDEST = """
SELECT position, slot, key, payload, traceparent
FROM outbox
ORDER BY position
LIMIT %s
FOR UPDATE SKIP LOCKED
"""
PUBLISHED = "DELETE FROM outbox WHERE position = ANY(%s) AND slot = ANY(%s)"
PRODUCER = {
    "enable.idempotence": True,  # with acks=all and five requests in flight
    "partitioner": "murmur2_random",  # as the Java client
    "linger.ms": 20,  # fills batches while rows are handed over; flush() sends at once
    "delivery.report.only.error": True,  # no callback for each event
}


def relay(connection: psycopg.Connection, producer: Producer, topic: str) -> int:
    """Publish and delete one batch, in one transaction; return its number of events."""
    failed: list[KafkaError] = []

    def report(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    with connection.transaction(), connection.cursor(binary=True) as cursor:
        rows = cursor.execute(OLDEST, [BATCH], prepare=True).fetchall()
        for _, _, key, payload, traceparent in rows:
            headers = [*CONTENT_TYPE, ("traceparent", traceparent)] if traceparent else CONTENT_TYPE
            producer.produce(topic, payload, key, headers=headers, on_delivery=report)
        producer.flush()
        if failed:
            raise KafkaException(failed[0])
        if rows:
            positions, slots = [row[0] for row in rows], list({row[1] for row in rows})
            cursor.execute(PUBLISHED, [positions, slots], prepare=True)
    return len(rows)


def main() -> None:
    """Relay until the process is ended."""
    compression = {"compression.type": os.environ["COMPRESSION"]}
    brokers = {"bootstrap.servers": os.environ["BROKERS"]}
    producer = Producer({**PRODUCER, **compression, **brokers})
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        while True:
            if relay(connection, producer, os.environ["TOPIC"]) < BATCH:
                time.sleep(POLL_S)


if __name__ == "__main__":
    main()
