"""A broker that asks who we are and what we may: SASL, and rights that are missing at first."""

from collections.abc import Iterator

import pytest
from aiokafka.protocol.admin import CreateAclsRequest

from tests import load, topics
from tests.brokers import Broker, broker_behind_a_line
from tests.line import Line
from tests.worker import Worker

PASSWORD = "only-for-this-test"
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
# Kafka's protocol: resource types, operations, and the rest of an ACL.
TOPIC, TRANSACTIONAL_ID = 2, 5
ALL = 2
PREFIXED = 4
ALLOW = 3


pytestmark = pytest.mark.xdist_group("rights")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker whose outer door wants a password and grants nothing by itself."""
    properties = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,OUTER:SASL_PLAINTEXT,"
        "CONTROLLER:PLAINTEXT",
        "listener.name.outer.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.outer.plain.sasl.jaas.config": f'{LOGIN} required user_relay="{PASSWORD}";',
        "authorizer.class.name": AUTHORIZER,
        "super.users": "User:ANONYMOUS",
    }
    with broker_behind_a_line(properties) as broker:
        yield broker


async def allow(kafka: str, kind: int, name: str) -> None:
    """Give the relay every right on what has a name that begins so."""
    async with topics.administration(kafka) as admin:
        right = CreateAclsRequest(kind, name, PREFIXED, "User:relay", "*", ALL, ALLOW)
        await admin._send_to_controller(right)  # noqa: SLF001 - the client has no call for it


async def test_missing_rights_are_told_and_nothing_is_lost(
    database: str, broker: Broker, line: Line
) -> None:
    """Without rights it is unhealthy and says which; with them it leads, each event once."""
    topic = database.rpartition("/")[2]
    await load.prepare(database)
    settings = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "relay",
        "KAFKA_SASL_PASSWORD": PASSWORD,
    }
    with Worker(database, f"127.0.0.1:{line.port}", topic, **settings) as worker:
        async with load.writers(lambda: database, 2):
            await worker.wait_event("worker.failing", problem="TopicAuthorizationFailedError")
            assert (await worker.get("/readyz")).status_code == 503
            await allow(broker.inside, TOPIC, topic)
            await worker.wait_event("worker.failing", problem="TransactionalIdAuthorizationFailed")
            await allow(broker.inside, TRANSACTIONAL_ID, "outbox-")
            await worker.leading()
            await worker.wait_published(50)
        await load.reckon(database, broker.inside, topic)
        assert PASSWORD not in worker.output()


async def test_wrong_password_is_told(database: str, line: Line) -> None:
    """A password that the broker refuses is a problem that is named, and never shown."""
    settings = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": "relay",
        "KAFKA_SASL_PASSWORD": "wrong-one",
    }
    topic = database.rpartition("/")[2]
    with Worker(database, f"127.0.0.1:{line.port}", topic, **settings) as worker:
        failing = await worker.wait_event("worker.failing")
        assert "KAFKA_SASL_PASSWORD" in failing["detail"]
        assert "wrong-one" not in worker.output()
