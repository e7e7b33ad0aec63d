"""Makes the event topic at the first start, and checks at each take-over that it is still the same."""

from typing import Any

import msgspec

from outbox_worker.kafka import administration, reading
from outbox_worker.kafka.administration import Administration
from outbox_worker.kafka.guard import WHAT_TO_DO, TopicGuard, TopicLostError
from outbox_worker.logs import get_logger
from outbox_worker.relay.on_change import OnChange
from outbox_worker.relay.start import Start

log = get_logger(__name__)


class EventTopic:
    """Checks the topic before a leader writes to it."""

    def __init__(self, client: dict[str, Any], name: str, on_change: OnChange) -> None:
        self._client = client
        self._name = name
        self._on_change = on_change

    async def make(self, partitions: int) -> int:
        """Make the topic unless it exists; return how many partitions it has."""
        async with administration.connect(self._client) as admin:
            await make_topic(admin, self._name, partitions, administration.EVENT_TOPIC)
            return await admin.partitions(self._name)

    async def max_batch_bytes(self, admin: Administration) -> int:
        """Return the size of the largest batch that brokers accept; warn if they delete events."""
        if not await admin.exists(self._name):
            return administration.DEFAULT_BATCH_BYTES
        configs = await admin.configs(self._name)
        self._warn_of_deletion(configs)
        return administration.max_batch_bytes(configs)

    async def check(self, start: Start, partitions: int, *, accept: bool) -> Start:
        """Return the start with the topic's id, after a check that its events are still there.

        A topic that was deleted and made again has another id. If the brokers tell no ids, it is
        recognised by its end, which is at or below an offset that was acknowledged before.

        Args:
            start: where the relay starts from, with the topic's id and offsets from the last record.
            partitions: the number over which the relay hashes keys.
            accept: the operator accepts a topic that was made again.

        Raises:
            TopicLostError: the topic was deleted or made again, or has lost records or partitions.
        """
        # The first page's record has no offsets, because a record holds those before its own page.
        published = bool(start.offsets or start.events)
        async with administration.connect(self._client) as admin:
            if not await admin.exists(self._name):
                if published and not accept:
                    raise TopicLostError.missing(self._name)
                await make_topic(admin, self._name, partitions, administration.EVENT_TOPIC)
            topic = await admin.described(self._name)
        self._check_partitions(len(topic.partitions), partitions)
        if accept or not published:
            return msgspec.structs.replace(start, offsets={}, topic_id=topic.id)
        TopicGuard(self._name, start.topic_id, start.offsets).check_described(topic)
        await self._check_ends(start, partitions)
        return msgspec.structs.replace(start, topic_id=topic.id or start.topic_id)

    def _check_partitions(self, found: int, hashed: int) -> None:
        if found < hashed:
            message = f"topic {self._name} has {found} partitions, it had {hashed}; add partitions"
            raise TopicLostError(message)
        if self._on_change.is_new("topic.grown", found if found > hashed else None):
            log.warning("topic.grown", partitions=found, hashed_by=hashed)

    async def _check_ends(self, start: Start, partitions: int) -> None:
        ends = await reading.end_offsets(self._client, self._name, partitions)
        short = [p for p, offset in start.offsets.items() if ends.get(p, 0) <= offset]
        if short:
            message = (
                f"topic {self._name} was made again or has lost records: its partitions {short} end "
                f"below offsets that were acknowledged; {WHAT_TO_DO}"
            )
            raise TopicLostError(message)

    def _warn_of_deletion(self, configs: dict[str, str]) -> None:
        """Warn if brokers delete events: then the topic cannot rebuild the database."""
        policy = configs.get("cleanup.policy", "delete")
        limits = administration.retention(configs)
        forgets = "compact" in policy or limits != administration.UNLIMITED
        if self._on_change.is_new("topic.forgets", (policy, limits) if forgets else None):
            log.warning(
                "topic.forgets",
                topic=self._name,
                cleanup_policy=policy,
                retention_ms=limits["retention.ms"],
                retention_bytes=limits["retention.bytes"],
            )


async def make_topic(
    admin: Administration, topic: str, partitions: int, configs: dict[str, str]
) -> None:
    """Make a topic unless it exists; warn if it gets fewer replicas than brokers are configured with."""
    replicas = await admin.ensure(topic, partitions, configs)
    if replicas is not None:
        configured = await admin.configured_replication()
        log.info("topic.made", topic=topic, partitions=partitions, replicas=replicas)
        if replicas < configured:
            log.warning("topic.few_replicas", topic=topic, partitions=partitions,
                        replicas=replicas, configured=configured)  # fmt: skip
