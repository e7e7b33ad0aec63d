"""A broker with SASL and ACLs: rights that are missing at first, and wrong credentials."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from aiokafka.protocol.admin import CreateAclsRequest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker, broker_behind_a_proxy
from tests.support.programs.command import Operator
from tests.support.relay import writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon
from tests.support.waiting import FAULT_S, last, until

PASSWORD = "only-for-this-test"
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
# Kafka's protocol: resource types, operations, and the rest of an ACL.
TOPIC, TRANSACTIONAL_ID = 2, 5
ALL, READ, WRITE, DESCRIBE = 2, 3, 4, 8
PREFIXED = 4
ALLOW = 3
SASL = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "PLAIN",
    "KAFKA_SASL_USERNAME": "relay",
    "KAFKA_SASL_PASSWORD": PASSWORD,
}


pytestmark = pytest.mark.xdist_group("rights")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker whose outer listener requires a password, and whose user has no rights."""
    properties = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,OUTER:SASL_PLAINTEXT,"
        "CONTROLLER:PLAINTEXT",
        "listener.name.outer.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.outer.plain.sasl.jaas.config": f'{LOGIN} required user_relay="{PASSWORD}";',
        "authorizer.class.name": AUTHORIZER,
        "super.users": "User:ANONYMOUS",
    }
    with broker_behind_a_proxy(properties) as broker:
        yield broker


async def allow(kafka: str, kind: int, name: str, operation: int = ALL) -> None:
    """Grant the relay an operation on topics or transactional ids with this prefix."""
    async with topics.administration(kafka) as admin:
        right = CreateAclsRequest(kind, name, PREFIXED, "User:relay", "*", operation, ALLOW)
        await admin._send_to_controller(right)  # noqa: SLF001 - the client has no call for it


async def test_missing_rights_are_named_and_nothing_is_lost(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """A worker without rights is not ready and names them; with them it publishes each event once."""
    await writers.prepare(database)
    with Worker(database, proxy.address, **SASL) as worker:
        async with writers.writing(database):
            await worker.wait_event("worker.failing", problem="TopicAuthorizationFailedError")
            assert (await worker.get("/readyz")).status_code == 503
            await allow(broker.inside, TOPIC, worker.topic)
            await worker.wait_event("worker.failing", problem="TransactionalIdAuthorizationFailed")
            await allow(broker.inside, TRANSACTIONAL_ID, "outbox-")
            await worker.leading()
            await worker.wait_published(50)
        await reckon(database, broker.inside, worker.topic)
        assert PASSWORD not in worker.output()


async def test_doctor_does_not_pass_a_configuration_that_it_cannot_read(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """Without DescribeConfigs, `doctor` names that right and reports no setting of the topic."""
    topic = database.rpartition("/")[2]
    with Worker(database, broker.inside, topic) as leader:
        await leader.leading()
        for operation in (READ, WRITE, DESCRIBE):
            await allow(broker.inside, TOPIC, topic, operation)
        outside = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{proxy.port}"}
        operator = Operator({**leader.env, **SASL, **outside})

        async def granted() -> dict[str, dict[str, Any]] | None:
            report = (await operator.run("doctor", "--json")).report
            checks = {check["name"]: check for check in report["checks"]}
            return checks if checks.get("rights", {}).get("passed") else None

        checks = await until(granted)
    assert checks
    assert not checks["configuration"]["passed"]
    assert "DescribeConfigs" in checks["configuration"]["mend"]
    assert checks.keys().isdisjoint({"in sync", "message size", "retention", "compaction"})


async def test_wrong_password_is_named(database: str, proxy: FaultyProxy) -> None:
    """The log names the setting of a refused password, and never shows the password."""
    settings = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": "relay",
        "KAFKA_SASL_PASSWORD": "wrong-one",
    }
    with Worker(database, proxy.address, **settings) as worker:
        failing = await worker.wait_event("worker.failing")
        assert "KAFKA_SASL_PASSWORD" in failing["detail"]
        assert "wrong-one" not in worker.output()


BROKEN = {
    "password": (SASL | {"KAFKA_SASL_PASSWORD": "wrong-one"}, "KAFKA_SASL_PASSWORD"),
    "address": (SASL | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "KAFKA_BOOTSTRAP_SERVERS"),
    "rights": (SASL, "TopicAuthorizationFailedError"),
}


@pytest.mark.parametrize(("settings", "why"), BROKEN.values(), ids=BROKEN)
async def test_standby_with_wrong_settings_is_unready(
    database: str, broker: Broker, proxy: FaultyProxy, settings: dict[str, str], why: str
) -> None:
    """A standby that could not lead is unready from its first answer on, names the reason, and is healthy."""
    with Worker(database, broker.inside) as leader:
        await leader.leading()
        with Worker(database, proxy.address, **settings) as standby:
            seen: list[httpx.Response] = []

            async def stands_by() -> bool:
                seen.append(await standby.get("/readyz"))
                return bool(seen[-1].json()["status"] == "standby")

            await until(stands_by)
            told = await standby.wait_event("worker.standby_cannot_lead")
            assert why in told["detail"]
            await last(FAULT_S)
            await stands_by()
            assert {page.status_code for page in seen} == {503}
            assert seen[-1].json()["problem"] == told["problem"]
            assert (await standby.get("/healthz")).status_code == 200
            (_,) = (line for line in standby.log() if line["event"] == told["event"])


async def test_standby_is_ready_once_it_is_granted_its_rights(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """A standby that is granted its rights to the topics is ready without a restart."""
    with Worker(database, broker.inside) as leader:
        await leader.leading()
        with Worker(database, proxy.address, **SASL) as standby:
            await standby.wait_event("worker.standby_cannot_lead")
            await allow(broker.inside, TOPIC, leader.topic)
            await standby.wait_event("worker.standby_can_lead")
            assert (await standby.get("/readyz")).status_code == 200
