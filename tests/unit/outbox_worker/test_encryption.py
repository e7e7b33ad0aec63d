"""The checks of `doctor` for TLS, with addresses that no server here has."""

import ssl

import pytest

from outbox_worker.operator.encryption import check_kafka, check_postgres
from tests.support.parts.certificates import client_tls


@pytest.mark.parametrize(
    ("address", "mode", "warning"),
    [
        (None, None, False),
        ("127.0.0.1", None, False),
        ("::1", ssl.CERT_NONE, False),
        ("192.0.2.1", None, True),
        ("2001:db8::1", ssl.CERT_NONE, True),
        ("192.0.2.1", ssl.CERT_REQUIRED, False),
    ],
)
def test_a_connection_to_postgres_over_a_network_needs_verified_tls(
    address: str | None, mode: ssl.VerifyMode | None, *, warning: bool
) -> None:
    """It is a warning, which names the address and the parameter, if there is no TLS or no verification."""
    check = check_postgres(address, None if mode is None else client_tls(mode))
    assert (check.passed, check.warning) == (True, warning)
    assert (str(address) in check.found, "sslmode=verify-full" in check.mend) == (warning, warning)


@pytest.mark.parametrize(
    ("protocol", "hosts", "named"),
    [
        ("PLAINTEXT", ["localhost", "127.0.0.1", "::1"], ""),
        ("SASL_SSL", ["192.0.2.1"], ""),
        ("SSL", ["192.0.2.1"], ""),
        ("PLAINTEXT", ["::1", "192.0.2.1"], "192.0.2.1"),
        ("SASL_PLAINTEXT", ["192.0.2.2", "192.0.2.1"], "192.0.2.1, 192.0.2.2"),
        ("PLAINTEXT", ["broker.invalid"], "broker.invalid"),
    ],
)
async def test_connections_to_brokers_over_a_network_need_tls(
    protocol: str, hosts: list[str], named: str
) -> None:
    """It is a warning, which names the brokers and the setting, if there is no TLS."""
    check = await check_kafka(protocol, hosts)
    assert (check.passed, check.warning) == (True, bool(named))
    if named:
        assert check.found == f"the connections to {named} are not encrypted"
        assert "KAFKA_SECURITY_PROTOCOL" in check.mend
