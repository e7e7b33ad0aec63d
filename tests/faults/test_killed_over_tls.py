"""The worker is killed at each step of a transaction, in plain text and over SASL_SSL."""

import pytest

from tests.acceptance.relay.test_recovery_kafka import (
    test_killed_at_each_step as test_killed_at_each_step,
)
from tests.support.faults.kafka import KafkaProxy

pytestmark = pytest.mark.xdist_group("killed over TLS")


@pytest.fixture
async def proxy(watched: KafkaProxy) -> KafkaProxy:
    """Return a proxy that reads requests over TLS as well."""
    return watched
