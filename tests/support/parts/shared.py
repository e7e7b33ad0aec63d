"""The real Postgres and Kafka that all tests share. Each is started once, at its first use.

pytest's first process owns them. With xdist, the workers ask it for addresses over a socket.
"""

import asyncio
import os
import shutil
from contextlib import ExitStack
from multiprocessing.connection import Client, Listener
from pathlib import Path
from threading import Thread

import asyncpg

from deploy.local.kafka import find_kafka
from deploy.local.postgres import Postgres, PostgresServer, find_postgres
from deploy.local.programs import migrate

ADDRESS = "TEST_PARTS_ADDRESS"
EXTRA_BINDIR = "POSTGRES_EXTRA_BINDIR"  # the programs of a second Postgres to run the tests on
TEMPLATE = "document_links_template"
MEMORY_BYTES = 4 << 30
_STOP = "stop"
# Databases of tests are deleted, so they do not have to survive a power cut.
_POSTGRES_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "400",
    "max_prepared_transactions": "40",  # for the tests of the window
}


class Owner:
    """Owns the parts. One thread starts and ends them: Linux ends a program with its parent thread."""

    def __init__(self) -> None:
        self._listener = Listener(family="AF_UNIX")
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()
        os.environ[ADDRESS] = str(self._listener.address)

    def close(self) -> None:
        """End all parts."""
        _request(_STOP)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        found: dict[str, str] = {}
        with ExitStack() as running:
            while True:
                with self._listener.accept() as connection:
                    part = connection.recv()
                    if part == _STOP:
                        connection.send("")
                        return
                    try:
                        if part not in found:
                            found[part] = _start(part, running)
                        connection.send(found[part])
                    except Exception as error:  # noqa: BLE001 - raised in the test that asked
                        connection.send(error)


def ask(part: str) -> str:
    """Return the address of a part: `kafka`, `postgres`, or `postgres:` and a folder of programs.

    A Postgres has a migrated database, TEMPLATE, to be copied.
    """
    answer = _request(part)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _request(part: str) -> str | Exception:
    with Client(os.environ[ADDRESS]) as connection:
        connection.send(part)
        answer: str | Exception = connection.recv()
        return answer


def _start(part: str, running: ExitStack) -> str:
    if part == "kafka":
        return running.enter_context(find_kafka()).bootstrap
    _, _, bindir = part.partition(":")
    postgres: Postgres = running.enter_context(
        PostgresServer(Path(bindir), settings=_POSTGRES_SETTINGS, directory=_memory())
        if bindir
        else find_postgres(_POSTGRES_SETTINGS, _memory())
    )
    _make_template(postgres)
    return postgres.dsn()


def _memory() -> Path | None:
    """Return a folder in memory, where a database is copied in 30 ms; on a disk it takes 300 ms."""
    folder = Path("/dev/shm")  # noqa: S108 - the server makes a folder of its own in it
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > MEMORY_BYTES else None


def _make_template(postgres: Postgres) -> None:
    """Make and migrate the database that each test gets a copy of."""
    asyncio.run(
        execute(
            postgres.dsn(),
            f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)",
            f"CREATE DATABASE {TEMPLATE}",
        )
    )
    migrate(postgres.dsn(TEMPLATE))


async def execute(dsn: str, *statements: str) -> None:
    """Run each statement on a connection of its own, outside a transaction."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
