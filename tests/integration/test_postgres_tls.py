"""Postgres over TLS: a verified connection works, and errors name the wrong parameter."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.postgres import Postgres
from outbox_worker.postgres import sessions
from service.store.database import Database
from service.store.postgres.connection import Connection
from tests.support.parts.tls_postgres import BY_ADDRESS, BY_NAME, TlsServer, tls_server


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[TlsServer]:
    """Yield a Postgres with TLS."""
    with tls_server(postgres.dsn()) as server:
        yield server


async def connect(program: str, url: str) -> Connection:
    """Open a session as one of the programs does."""
    if program == "worker":
        return await sessions.connect(url, "test", timeout_s=5)  # type: ignore[return-value]
    return await Database(url, pool_size=1).connect()


@pytest.mark.parametrize("program", ["service", "worker"])
async def test_a_verified_connection_works(server: TlsServer, program: str) -> None:
    """sslmode=verify-full with the CA's certificate connects; the server refuses plain text."""
    url = server.url(BY_NAME, sslmode="verify-full", sslrootcert=str(server.ca))
    session = await connect(program, url)
    assert await session.fetchval("SELECT 1") == 1
    session.terminate()


@pytest.mark.parametrize("program", ["service", "worker"])
@pytest.mark.parametrize("fault", ["ca", "name", "file", "unreadable"])
async def test_errors_name_their_parameter(
    server: TlsServer, program: str, fault: str, tmp_path: Path
) -> None:
    """A wrong CA, a wrong host name, a missing and an invalid file give one line each."""
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("")
    host, file, words = {
        "ca": (BY_NAME, server.other_ca, ("refused", "sslrootcert=", "sslmode=verify-full")),
        "name": (BY_ADDRESS, server.ca, ("127.0.0.1", "refused", "sslmode=verify-full")),
        "file": (BY_NAME, tmp_path / "missing.pem", ("sslrootcert", "missing.pem", "No such file")),
        "unreadable": (BY_NAME, nothing, ("sslrootcert", "NO_CERTIFICATE")),
    }[fault]
    url = server.url(host, sslmode="verify-full", sslrootcert=str(file))
    with pytest.raises((ConnectionError, ValueError, sessions.UnusableUrlError)) as raised:
        await connect(program, url)
    assert all(word in str(raised.value) for word in words), raised.value
