"""Explains in one line why a Kafka address cannot be used, and names the wrong setting.

Most errors tell the reason. A closed or a silent connection tells none. In that case one request over a
plain socket, and one over TLS, find out which protocol the server at the address speaks.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import NamedTuple

from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from outbox_worker.kafka.tls import UnusableFileError

PROBE_TIMEOUT_S = 1
SERVERS = "KAFKA_BOOTSTRAP_SERVERS"
ADVERTISED = "the broker's advertised.listeners"
PROTOCOL = "KAFKA_SECURITY_PROTOCOL"
CA_FILE = "KAFKA_SSL_CAFILE"
# ApiVersions, version 0: a broker answers it before authentication.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
_CORRELATION = struct.pack(">i", 1)
_TLS_ALERT = b"\x15\x03"
# OpenSSL's X509_V_ERR_*, see its manual, X509_STORE_CTX_get_error.
_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_NAME = {62, 64}


class Security(NamedTuple):
    """The client's settings for TLS and authentication."""

    protocol: str
    mechanism: str
    has_certificate: bool

    @property
    def tls(self) -> bool:
        """Whether the client uses TLS."""
        return self.protocol.endswith("SSL")

    @property
    def sasl(self) -> bool:
        """Whether the client authenticates with SASL."""
        return self.protocol.startswith("SASL")


class Address(NamedTuple):
    """A broker's address. `advertised`: it comes from a broker, and not from the client's settings."""

    host: str
    port: int
    advertised: bool
    security: Security

    @property
    def named_in(self) -> str:
        """The setting that holds the address."""
        return ADVERTISED if self.advertised else SERVERS


async def explain(error: BaseException | None, address: Address) -> str:
    """Return what is wrong with an address and what to do; None is a closed connection."""
    said = next(filter(None, (_known(each, address) for each in _chain(error))), None)
    return f"{address.host}:{address.port} {said or await _probe(address)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _known(error: BaseException, address: Address) -> str | None:
    """Return the reason that an error tells, None if it tells none."""
    said: str | None = None
    match error:
        case UnusableFileError():
            said = f"is not connected to: {error}"
        case ssl.SSLCertVerificationError():
            said = _certificate(error, address)
        case ssl.SSLError():
            said = _alert(error, address.security)
        case socket.gaierror():
            named_in = address.named_in
            said = f"has a host name that is not known; correct {named_in} or the name service"
        case ConnectionRefusedError():
            said = f"refuses connections; start the broker or correct {address.named_in}"
        case KafkaError():
            said = _sasl(error, address.security)
    return said


def _sasl(error: KafkaError, security: Security) -> str | None:
    """Return why a broker refuses the client's authentication, None if the error is another one."""
    match error:
        case UnsupportedSaslMechanismError():
            return f"does not offer {security.mechanism}; correct KAFKA_SASL_MECHANISM"
        case IllegalSaslStateError():
            bare = "SSL" if security.tls else "PLAINTEXT"
            return f"does not use SASL; set {PROTOCOL}={bare} or use the port that wants SASL"
        case SaslAuthenticationFailed() | AuthenticationFailedError():
            return (
                f"refuses the {security.mechanism} user name or password; correct "
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, or KAFKA_SASL_MECHANISM"
            )
    return None


def _certificate(error: ssl.SSLCertVerificationError, address: Address) -> str:
    """Return why the client does not accept the broker's certificate."""
    if error.verify_code == _EXPIRED:
        return "has a certificate that has expired; renew the broker's certificate"
    if error.verify_code == _NOT_YET_VALID:
        return "has a certificate that is not valid yet; check the clocks"
    if error.verify_code in _WRONG_NAME:
        return (
            f"has a certificate for another host name; name the broker in {address.named_in} as its "
            f"certificate does ({error.verify_message})"
        )
    return (
        f"has a certificate that no trusted CA has signed; set {CA_FILE} to the certificate of the "
        f"broker's CA ({error.verify_message})"
    )


def _alert(error: ssl.SSLError, security: Security) -> str | None:
    """Return why the broker does not accept the client's certificate; None for another TLS error."""
    reason = error.reason or ""
    if not any(word in reason for word in ("CERTIFICATE", "HANDSHAKE_FAILURE", "UNKNOWN_CA")):
        return None
    if not security.has_certificate:
        return (
            "wants a client certificate, and none is set; set KAFKA_SSL_CERTFILE and "
            f"KAFKA_SSL_KEYFILE ({reason})"
        )
    return (
        "does not accept the client certificate; set KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE to one "
        f"that its CA has signed and that has not expired ({reason})"
    )


async def _probe(address: Address) -> str:
    """Return which protocol an address speaks, and what to do."""
    plain = await _answer(address, tls=False)
    if plain[4:8] == _CORRELATION:
        without = "SASL_PLAINTEXT" if address.security.sasl else "PLAINTEXT"
        mend = f"set {PROTOCOL}={without} or use the port that speaks TLS"
        return f"speaks plain text; {mend}" if address.security.tls else _closed(address)
    encrypted = await _answer(address, tls=True)
    if encrypted or plain.startswith(_TLS_ALERT):
        mend = f"set {PROTOCOL} to SSL or SASL_SSL, or use the port in plain text"
        return _closed(address) if address.security.tls else f"speaks TLS; {mend}"
    if plain:
        kind = "an HTTP server" if plain.startswith(b"HTTP") else "another kind of server"
        return f"is {kind}, not Kafka; correct {address.named_in}"
    return f"does not answer as Kafka does; correct {address.named_in}, check firewalls and broker"


def _closed(address: Address) -> str:
    """Return why a broker may close the connection after it has answered the first request."""
    if address.security.sasl:
        return "closes the connection; the broker's log says why"
    wanted = "SASL_SSL" if address.security.tls else "SASL_PLAINTEXT"
    return f"closes the connection, as it does if it wants SASL; set {PROTOCOL}={wanted}"


async def _answer(address: Address, *, tls: bool) -> bytes:
    """Return the beginning of the answer to ApiVersions; a TLS alert if TLS is spoken but refused."""
    context = _any_certificate() if tls else None
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(*address[:2], ssl=context)
            try:
                writer.write(_API_VERSIONS)
                return await reader.read(8)
            finally:
                writer.transport.abort()
    except ssl.SSLError as error:
        return _TLS_ALERT if "ALERT" in (error.reason or "") else b""
    except (OSError, TimeoutError):
        return b""


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
