"""The checks of `doctor` for TLS: an unverified connection over a network is a warning.

It is no failure, because the network may be private.
"""

import asyncio
from collections.abc import Iterable
from ipaddress import ip_address
from ssl import SSLObject
from typing import Any, Final

import asyncpg

from outbox_worker.operator.checks import Check

NOT_NEEDED: Final = "none is needed: the server is on this machine"
VERIFY: Final = "add sslmode=verify-full and, for a CA of your own, sslrootcert to DATABASE_URL"
ENCRYPT: Final = "set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
PRIVATE: Final = "or leave it, if nobody else can read this network"


def check_session(connection: asyncpg.Connection) -> Check:
    """Check the connection to Postgres."""
    transport: Any = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncpg has no other way
    peer = transport.get_extra_info("peername")
    address = peer[0] if isinstance(peer, tuple) else None  # None: a local socket
    return check_postgres(address, transport.get_extra_info("ssl_object"))


def check_postgres(address: str | None, tls: SSLObject | None) -> Check:
    """Check a connection to Postgres; `address` None: a local socket, `tls` None: without TLS."""
    if tls is not None and tls.context.verify_mode:
        found = f"{tls.version()}, the server's certificate is verified"
        return Check("tls", passed=True, found=found)
    if address is None or ip_address(address).is_loopback:
        return Check("tls", passed=True, found=NOT_NEEDED)
    if tls is None:
        found, mend = f"the connection to {address} is not encrypted", f"{VERIFY}; {PRIVATE}"
    else:
        found = f"{tls.version()}, but the certificate of {address} is not verified"
        mend = f"{VERIFY}: another server could pose as this one"
    return Check("tls", passed=True, found=found, mend=mend, warning=True)


async def check_kafka(security_protocol: str, hosts: Iterable[str]) -> Check:
    """Check the connections to brokers. With TLS, certificates are always verified."""
    if security_protocol.endswith("SSL"):
        found = "the brokers' certificates are verified"
        return Check("kafka tls", passed=True, found=found)
    distant = [host for host in sorted(set(hosts)) if not await _is_this_machine(host)]
    if not distant:
        return Check("kafka tls", passed=True, found=NOT_NEEDED)
    found = f"the connections to {', '.join(distant)} are not encrypted"
    return Check("kafka tls", passed=True, found=found, mend=f"{ENCRYPT}; {PRIVATE}", warning=True)


async def _is_this_machine(host: str) -> bool:
    """Whether each address of a host is a loopback address; False if the name is unknown."""
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:
        return False
    return all(ip_address(address[0]).is_loopback for *_, address in addresses)
