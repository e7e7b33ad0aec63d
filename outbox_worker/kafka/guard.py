"""The guard of the event topic: the relay commits only to the topic whose offsets it knows.

A topic that was deleted and made again accepts records under its old name. Its id is another one, and
its offsets begin again. The relay compares both before it commits a transaction: until then, no reader
of committed records sees the page.

Offsets that follow those of the last transaction without a gap prove that the topic is the same one.
So the brokers are asked for its id only if there is a gap: at the first transaction in a partition, and
after another producer has written to it. (One request for each transaction made the publishing of 20
events 30 % slower.)
"""

from collections.abc import Mapping
from typing import Self

from outbox_worker.kafka import metadata
from outbox_worker.kafka.connections import Client

MARKER = 1
"""The marker at the end of a transaction takes one offset in each of its partitions."""
WHAT_TO_DO = (
    "fill it (outbox_worker snapshot --topic), then run the worker once with --accept-topic"
)


class TopicLostError(Exception):
    """The event topic is not the one that was written to: an operator has to decide what to do."""

    @classmethod
    def missing(cls, topic: str) -> Self:
        """Return the error for a topic that was deleted."""
        return cls(f"topic {topic} does not exist any more; {WHAT_TO_DO}")


class TopicGuard:
    """The event topic's id at the start of a term, and its greatest acknowledged offsets."""

    def __init__(self, topic: str, topic_id: str | None, offsets: Mapping[int, int]) -> None:
        self._topic = topic
        self._topic_id = topic_id
        self._offsets = dict(offsets)

    async def check(
        self, client: Client, offsets: Mapping[int, int], records: Mapping[int, int]
    ) -> None:
        """Check the records of a transaction before its commit.

        Args:
            client: a connected client, to ask the brokers for the topic's id.
            offsets: the offset of the last record in each partition, if the broker has told it.
            records: the number of records that were sent to each partition.

        Raises:
            TopicLostError: the topic was deleted and made again.
        """
        without_gap = {
            partition: self._offsets[partition] + MARKER + count
            for partition, count in records.items()
            if partition in self._offsets
        }
        if offsets != without_gap:
            self.check_offsets(offsets)
            await self.check_id(client)

    async def check_id(self, client: Client) -> None:
        """Raise TopicLostError if the topic has another id now; the broker's error if it is gone."""
        if self._topic_id is None:  # the brokers are too old to tell it
            return
        (topic,) = await metadata.topics(client, [self._topic])
        if not topic.exists:
            raise topic.error(self._topic)
        self.check_described(topic)

    def check_described(self, topic: metadata.Topic) -> None:
        """Raise TopicLostError if a topic has another id than the known one."""
        if topic.id and self._topic_id and topic.id != self._topic_id:
            message = (
                f"topic {self._topic} was made again: its id was {self._topic_id}, now it is "
                f"{topic.id}; {WHAT_TO_DO}"
            )
            raise TopicLostError(message)

    def check_offsets(self, offsets: Mapping[int, int]) -> None:
        """Raise TopicLostError if a record got an offset that was acknowledged before."""
        for partition, offset in offsets.items():
            if offset <= self._offsets.get(partition, -1):
                message = (
                    f"topic {self._topic} was made again or has lost records: partition {partition} "
                    f"is at offset {offset}, it was at {self._offsets[partition]}; {WHAT_TO_DO}"
                )
                raise TopicLostError(message)

    def advance(self, offsets: Mapping[int, int]) -> None:
        """Note the offsets of a page that is committed."""
        self._offsets.update(offsets)
