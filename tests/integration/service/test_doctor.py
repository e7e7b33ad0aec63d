"""Checks of `doctor` whose circumstances no server here has: a network, a pooler that keeps statements."""

import ssl

import pytest

from deploy.local.postgres import Postgres
from service.doctor.database import check_encryption
from service.doctor.role import check_role_settings
from service.store.database import Database
from tests.support.parts.certificates import client_tls
from tests.support.programs.main_jobs import ground


@pytest.mark.parametrize(
    ("address", "mode", "warnings"),
    [
        (None, None, 0),
        ("127.0.0.1", None, 0),
        ("::1", ssl.CERT_NONE, 0),
        ("192.0.2.1", None, 1),
        ("2001:db8::1", ssl.CERT_NONE, 1),
        ("192.0.2.1", ssl.CERT_REQUIRED, 0),
    ],
)
def test_a_connection_over_a_network_needs_verified_tls(
    address: str | None, mode: ssl.VerifyMode | None, warnings: int
) -> None:
    """It is a warning, which names the address and the parameter, if there is no TLS or no verification."""
    check = check_encryption(address, None if mode is None else client_tls(mode))
    assert (check.passed, check.warning) == (True, bool(warnings))
    assert (str(address) in check.found, "sslmode=verify-full" in check.mend) == (
        bool(warnings),
        bool(warnings),
    )


async def test_settings_of_the_role_hurt_behind_a_transaction_pooler(postgres: Postgres) -> None:
    """There the check fails, and its remedy resets them; otherwise the service overrides them."""
    hurting = {"statement_timeout": "50ms", "idle_in_transaction_session_timeout": "1s"}
    async with ground(postgres, hurting) as at, Database(at.url, pool_size=1) as database:
        session = await database.connect()
        overridden = await check_role_settings(session, transaction_pooler=False)
        failed = await check_role_settings(session, transaction_pooler=True)
        await at.owner.execute(failed.mend.partition(" Or ")[0])
        session.terminate()
        session = await database.connect()
        mended = await check_role_settings(session, transaction_pooler=True)
        session.terminate()
    assert (overridden.passed, failed.passed, mended.passed) == (True, False, True)
    assert all(name in failed.found for name in hurting)
