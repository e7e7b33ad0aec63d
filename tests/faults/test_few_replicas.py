"""Topics that are made while some brokers have never registered."""

from deploy.local.kafka import KafkaCluster
from tests.support.relay.worker import Worker

CONFIGURED = "3"


async def test_topics_with_fewer_replicas_than_configured_are_warned_of(database: str) -> None:
    """With one of three brokers each topic gets one replica and a warning."""
    topic = database.rpartition("/")[2]
    with (
        KafkaCluster(properties={"default.replication.factor": CONFIGURED}) as cluster,
        Worker(database, cluster.bootstrap, topic) as worker,
    ):
        await worker.leading()
        warned = [line for line in worker.log() if line["event"] == "topic.few_replicas"]
    assert [(each["replicas"], each["configured"]) for each in warned] == [(1, 3), (1, 3)]
    assert {each["topic"] for each in warned} > {topic}
