"""The checks of Kafka for `doctor`: brokers, rights, the event topic and the progress topic."""

import shlex

from aiokafka.errors import KafkaError

from outbox_worker.kafka import administration, metadata, progress_topic
from outbox_worker.kafka.guard import WHAT_TO_DO
from outbox_worker.logs import reason
from outbox_worker.operator.checks import Check
from outbox_worker.operator.encryption import check_kafka
from outbox_worker.postgres.registration import Registration
from outbox_worker.postgres.sessions import ERRORS
from outbox_worker.settings import Settings

LEAST_MESSAGE_BYTES = 20_000
"""The size of the largest record: the outbox limits the payload and the key, and there are headers."""
UNCHECKED = "rights on transactional ids are not checked"
OFFSETS_SHOWN = 10


async def examine(settings: Settings, registration: Registration | None) -> list[Check]:
    """Run the checks; the registration is None before the worker's first start."""
    progress = registration.progress_topic(settings.topic) if registration else None
    try:
        async with administration.connect(settings.kafka_client()) as admin:
            brokers = await admin.brokers()
            checks = [Check("kafka", passed=True, found=f"{brokers} brokers; {UNCHECKED}")]
            checks.append(await check_kafka(settings.security_protocol, admin.hosts()))
            if await admin.exists(settings.topic):
                described = await admin.described(settings.topic)
                configs = await admin.configs(settings.topic)
                replicas = max(
                    min(administration.REPLICATION, brokers), await admin.configured_replication()
                )
                checks += _topic(settings, described, configs, replicas)
            else:
                checks.append(_missing_topic(settings.topic, was_made=registration is not None))
            progress_exists = progress is not None and await admin.exists(progress)
        if progress is not None:
            checks.append(await _progress(settings, progress, exists=progress_exists))
    except (*ERRORS, KafkaError) as error:
        mend = "follow the text of the error; else check the right to describe"
        return [Check("kafka", passed=False, found=reason(error), mend=mend)]
    return checks


def _missing_topic(topic: str, *, was_made: bool) -> Check:
    """Report a missing event topic; `was_made`: the worker's first start has made it."""
    if was_made:
        found = f"topic {topic} does not exist any more"
        return Check("topic", passed=False, found=found, mend=WHAT_TO_DO)
    return Check("topic", passed=True, found="not there yet; the worker's first start makes it")


def _topic(
    settings: Settings, described: metadata.Topic, configs: dict[str, str], replicas: int
) -> list[Check]:
    """Compare the topic with one that the worker would make."""
    fewest = min(partition.replicas for partition in described.partitions)
    leaderless = [each.number for each in described.partitions if each.leader < 0]
    known = described.operations is not None
    results: list[tuple[str, bool, str, str]] = [
        ("topic", True, f"{len(described.partitions)} partitions", ""),
        ("leaders", not leaderless, f"partitions without a leader: {leaderless or 'none'}",
         "start the brokers that hold them"),
        ("rights", described.may(metadata.READ) and described.may(metadata.WRITE),
         "to read and to write" if known else "not checked: the brokers do not tell them",
         "grant Read and Write on the topic: see the runbook"),
        ("replication", fewest >= replicas, f"{fewest} replicas",
         f"kafka-reassign-partitions.sh: give it {replicas} replicas"),
    ]  # fmt: skip
    return [*(Check(*result) for result in results), *_configuration(settings, configs, replicas)]


def _configuration(settings: Settings, configs: dict[str, str], replicas: int) -> list[Check]:
    """Check the event topic's configuration, which is empty without the right to read it."""
    if not configs:
        mend = "grant DescribeConfigs on the topic: see the runbook"
        return [Check("configuration", passed=False, found="cannot be read", mend=mend)]
    least = int(configs.get("min.insync.replicas", 0))
    size = int(configs.get("max.message.bytes", LEAST_MESSAGE_BYTES))
    kept, policy = administration.retention(configs), configs.get("cleanup.policy", "delete")
    at = f"--bootstrap-server {shlex.quote(settings.bootstrap_servers)} --topic {settings.topic}"
    alter = f"kafka-configs.sh {at} --alter --add-config "
    results: list[tuple[str, bool, str, str]] = [
        ("in sync", replicas < administration.REPLICATION or least > 1, f"min.insync.replicas={least}",
         f"{alter}min.insync.replicas=2"),
        ("message size", size >= LEAST_MESSAGE_BYTES, f"max.message.bytes={size}",
         f"{alter}max.message.bytes=1048588"),
        ("retention", kept == administration.UNLIMITED, _assigned(kept),
         f"{alter}{_assigned(administration.UNLIMITED)}"),
        ("compaction", "compact" not in policy, f"cleanup.policy={policy}",
         f"{alter}cleanup.policy=delete"),
    ]  # fmt: skip
    return [Check(*result) for result in results]


async def _progress(settings: Settings, topic: str, *, exists: bool) -> Check:
    """Read the progress topic as a leader does."""
    lost = "start the worker: it makes the topic if necessary, and starts from its checkpoint"
    if not exists:
        return Check("progress", passed=False, found=f"topic {topic} does not exist", mend=lost)
    found = await progress_topic.last(settings.kafka_client(), topic, wait_s=1)
    if found.hidden_from is not None:
        text = (
            f"an open transaction hides the records of {topic} from offset {found.hidden_from} on"
        )
        mend = "end the producer of that transaction, or abort it with kafka-transactions.sh"
        return Check("progress", passed=False, found=text, mend=mend)
    if found.strays:
        offsets = ", ".join(map(str, found.strays[:OFFSETS_SHOWN]))
        text = f"{len(found.strays)} records of {topic} are no progress records, offsets {offsets}"
        mend = "the worker skips them; revoke the right to write from the producer that wrote them"
        return Check("progress", passed=False, found=text, mend=mend)
    if found.record is None:
        return Check("progress", passed=False, found=f"topic {topic} has no record", mend=lost)
    return Check("progress", passed=True, found=f"{found.record.events} events published")


def _assigned(configs: dict[str, str]) -> str:
    """Return configuration in the form that Kafka's tools accept."""
    return ",".join(f"{name}={value}" for name, value in configs.items())
