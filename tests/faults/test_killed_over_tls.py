"""The worker killed at each step of a transaction, over SASL_SSL as in plain text."""

import pytest

from tests.acceptance.relay.test_recovery_kafka import connection as connection
from tests.acceptance.relay.test_recovery_kafka import (
    test_killed_at_each_step as test_killed_at_each_step,
)
from tests.support.faults.tcp import Line

pytestmark = pytest.mark.xdist_group("killed over TLS")


@pytest.fixture
async def line(watched: Line) -> Line:
    """Return a line that sees requests also over TLS."""
    return watched
