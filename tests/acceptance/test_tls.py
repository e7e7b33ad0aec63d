"""The relay over SASL_SSL: it starts, is taken over from and stops as fast as in plain text."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests import load
from tests.brokers import Broker, tls_broker_behind_a_line
from tests.line import Line
from tests.worker import Worker

# Each deadline is the one in plain text, with a margin for this machine's other tests.
START_S = 6
TAKE_OVER_S = 4
STOP_S = 6

pytestmark = pytest.mark.xdist_group("TLS")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker whose outer listener wants TLS and a password."""
    with tls_broker_behind_a_line() as broker:
        yield broker


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
async def test_starts_is_taken_over_from_and_stops_in_time(
    database: str, broker: Broker, line: Line, mechanism: str
) -> None:
    """Over TLS a first worker leads, a second one takes over after a kill, and then stops."""
    topic = database.rpartition("/")[2]
    await load.prepare(database)
    settings = {**broker.settings, "KAFKA_SASL_MECHANISM": mechanism}
    kafka = f"127.0.0.1:{line.port}"
    began = time.monotonic()
    with Worker(database, kafka, topic, **settings) as first:
        await first.leading()
        assert time.monotonic() - began < START_S
        with Worker(database, kafka, topic, **settings) as second:
            await second.wait_event("worker.state", state="standby")
            async with load.writers(lambda: database, 1):
                await first.wait_published(20)
                began = time.monotonic()
                first.end(signal.SIGKILL)
                await second.leading()
                assert time.monotonic() - began < TAKE_OVER_S
                await second.wait_published(20)
            await load.reckon(database, broker.inside, topic)
            began = time.monotonic()
            assert second.end(timeout_s=60) == 0
            assert time.monotonic() - began < STOP_S
