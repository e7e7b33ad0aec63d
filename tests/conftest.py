"""Fixtures on real parts: each test has its own database and topic; Postgres and Kafka are shared."""

import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from deploy.local.postgres import Postgres, PostgresAt
from tests.support import seeds
from tests.support.parts import shared
from tests.support.topic import topics
from tests.telemetry.emitted import Watch, unlisted_in_folder

INTEGRATION = Path(__file__).parent / "integration"
ACCEPTANCE = Path(__file__).parent / "acceptance"
FAULTS = Path(__file__).parent / "faults"
ACCEPTANCE_TIMEOUT_S = 300
"""The limit of a test that starts programs, often several."""
# No deadline, because the machine may be busy. `make test` has the same examples in each run.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("fresh", deadline=None, max_examples=1_000, print_blob=True)
settings.load_profile("fresh" if seeds.FRESH else "fixed")
PARTS = pytest.StashKey[shared.Owner]()


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest's first process own the parts; xdist's workers ask it for addresses."""
    if not hasattr(config, "workerinput"):
        config.stash[PARTS] = shared.Owner()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the parts with the run."""
    if owner := config.stash.get(PARTS, None):
        owner.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start programs more time."""
    for item in items:
        if {ACCEPTANCE, FAULTS} & set(item.path.parents) and item.get_closest_marker(
            "timeout"
        ) is None:
            item.add_marker(pytest.mark.timeout(ACCEPTANCE_TIMEOUT_S))


def pytest_collection_finish() -> None:
    """Keep the collected tests out of later garbage collections.

    They are some 360,000 objects, which cost each full collection 0.2 s of processor. On a busy machine
    the event loop then stood still for two seconds, which is the limit for an answer of Postgres.
    """
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the integration tests on a second Postgres as well, if one is given."""
    bindir = os.environ.get(shared.EXTRA_BINDIR)
    if bindir and "postgres" in metafunc.fixturenames and _is_integration(metafunc):
        which = ["postgres", f"postgres:{bindir}"]
        metafunc.parametrize("postgres", which, ids=["found", "extra"], indirect=True)


def _is_integration(metafunc: pytest.Metafunc) -> bool:
    return INTEGRATION in metafunc.definition.path.parents


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> None:
    """Give the programs that tests start the default SIGINT and SIGHUP, even if this run ignores them.

    A shell lets its background jobs ignore SIGINT, and nohup ignores SIGHUP. A child process inherits
    an ignored signal, but not a handler. With a handler that does nothing this run still survives.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def watch() -> Watch:
    """Check each line that both programs log in this process."""
    return Watch()


@pytest.fixture(autouse=True)
def only_listed_lines(watch: Watch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose programs have logged anything that their `telemetry` does not list."""
    yield
    folder = getattr(request.node, "funcargs", {}).get("tmp_path")
    found = [*watch.found, *([] if folder is None else unlisted_in_folder(folder))]
    watch.found.clear()
    assert found == []


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Postgres:
    """Return the Postgres of this run."""
    return PostgresAt(shared.ask(getattr(request, "param", "postgres")))


@asynccontextmanager
async def copied(postgres: Postgres, template: str) -> AsyncIterator[str]:
    """Yield the URL of a new copy of a database.

    Copying the files takes half the time of copying through the WAL, Postgres' default.
    """
    name = f"test_{uuid4().hex}"
    await shared.execute(
        postgres.dsn(), f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"
    )
    yield postgres.dsn(name)
    await shared.execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[str]:
    """Yield the URL of a migrated, empty database that no other test uses."""
    async with copied(postgres, shared.TEMPLATE) as url:
        yield url


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a session of the test itself on the database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def empty_database(postgres: Postgres) -> AsyncIterator[str]:
    """Yield the URL of a database without the schema."""
    async with copied(postgres, "template0") as url:
        yield url


@pytest.fixture(scope="session")
def kafka() -> str:
    """Return the bootstrap servers of this run's Kafka."""
    return shared.ask("kafka")


@pytest.fixture
async def topic(kafka: str) -> AsyncIterator[str]:
    """Yield a topic's name; all topics whose names begin with it are deleted afterwards."""
    name = f"test-{uuid4().hex}"
    yield name
    async with topics.administration(kafka) as admin:
        made = [each for each in await admin.list_topics() if each.startswith(name)]
        await admin.delete_topics(made)
