"""The fixtures of the acceptance tests, with brokers over TLS as well."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.acceptance.conftest import delivery as delivery
from tests.acceptance.conftest import proxy as proxy
from tests.faults import table
from tests.support.faults.kafka import KafkaProxy
from tests.support.parts.brokers import Broker, broker_behind_a_proxy, tls_broker_behind_a_proxy

DOORS = {"plain": broker_behind_a_proxy, "TLS": tls_broker_behind_a_proxy}


@pytest.fixture(scope="module", params=DOORS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Yield a broker whose clients go through a proxy, in plain text or over TLS."""
    with DOORS[request.param]() as broker:
        yield broker


@pytest.fixture
async def watched(broker: Broker) -> AsyncIterator[KafkaProxy]:
    """Yield a proxy that reads requests: it ends the worker's TLS, if there is TLS."""
    async with KafkaProxy("127.0.0.1", broker.behind, broker.proxy_port, broker.tls) as proxy:
        yield proxy


ROWS = pytest.StashKey[list[table.Row]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty table."""
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of faults, and write it as JSON."""
    rows = terminalreporter.config.stash[ROWS]
    if rows:
        table.write(rows)
        terminalreporter.section(f"faults, and in {table.FILE}")
        terminalreporter.write_line("\n".join(table.markdown(rows)))


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[table.Row]:
    """Return the table's rows so far."""
    return request.config.stash[ROWS]
