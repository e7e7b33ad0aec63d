"""The fixtures of the acceptance tests, with a broker over TLS as well."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.acceptance.conftest import delivery as delivery
from tests.acceptance.conftest import line as line
from tests.faults import table
from tests.support.faults.tcp import Line
from tests.support.parts.brokers import Broker, broker_behind_a_line, tls_broker_behind_a_line

DOORS = {"plain": broker_behind_a_line, "TLS": tls_broker_behind_a_line}


@pytest.fixture(scope="module", params=DOORS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Yield a broker whose clients go through a line, in plain text or over TLS."""
    with DOORS[request.param]() as broker:
        yield broker


@pytest.fixture
async def watched(broker: Broker) -> AsyncIterator[Line]:
    """Yield a line that sees requests, over TLS as well: it ends the worker's TLS."""
    async with Line("127.0.0.1", broker.behind, broker.line_port, broker.tls) as line:
        yield line


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
