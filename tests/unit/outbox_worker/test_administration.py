"""Whether a topic exists, by the controller's answer."""

import pytest
from aiokafka.errors import KafkaError, for_code

from outbox_worker.kafka.administration import FINAL, existence_from

# Beyond the last one in Errors.java of Kafka 4.3, which is below 140.
CODES = range(-1, 200)
EXISTS = {36}  # TOPIC_ALREADY_EXISTS
# NONE; INVALID_TOPIC, INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR, INVALID_REPLICA_ASSIGNMENT,
# INVALID_CONFIG, INVALID_REQUEST, POLICY_VIOLATION: the controller looks for the name first.
ABSENT = {0, 17, 37, 38, 39, 40, 42, 44}
FORBIDDEN = {29, 31}  # TOPIC_, CLUSTER_AUTHORIZATION_FAILED: a broker may know more


@pytest.mark.parametrize("code", CODES)
def test_topic_is_gone_only_if_the_controller_says_so(code: int) -> None:
    """An error such as a time-out, or an unknown one, does not tell whether the topic exists."""
    error: type[KafkaError] = for_code(code)
    assert existence_from(error) == (True if code in EXISTS else False if code in ABSENT else None)
    assert (error in FINAL) == (code in EXISTS | ABSENT | FORBIDDEN)
