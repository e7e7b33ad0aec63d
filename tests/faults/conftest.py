"""The fixtures of the acceptance tests, with a broker over TLS as well."""

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import delivery as delivery
from tests.acceptance.conftest import line as line
from tests.brokers import Broker, broker_behind_a_line, tls_broker_behind_a_line

DOORS = {"plain": broker_behind_a_line, "TLS": tls_broker_behind_a_line}


@pytest.fixture(scope="module", params=DOORS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Yield a broker whose clients go through a line, in plain text or over TLS."""
    with DOORS[request.param]() as broker:
        yield broker
