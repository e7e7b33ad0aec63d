"""TLS with Postgres: files, the system's CAs, and errors that name both. Both programs have this file."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from .url import ENCODE, PostgresUrl, UrlError, read_url

TLS_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
TLS_PARAMETERS: Final = (
    *TLS_FILES,
    *("sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
)


class TlsError(ConnectionError):
    """The TLS handshake failed; the text names the host, the reason and the parameter."""


def check_url(url: str) -> None:
    """Raise UrlError if a URL, or a file that it names, cannot be used."""
    check_files(read_url(url).parameters)


def check_files(given: dict[str, str]) -> None:
    """Raise UrlError if a file that the parameters name cannot be opened."""
    for name in TLS_FILES:
        path = given.get(name)
        if path is None or (name == "sslrootcert" and path == "system"):
            continue
        try:
            with open(path, "rb"):  # noqa: PTH123 - a path as libpq takes it
                pass
        except OSError as error:
            raise UrlError(f"{name}: {path} cannot be read: {error.strerror}") from None


def system_context(tls: dict[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the system's CAs, for `sslrootcert=system`."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    for name, attribute in (("min", "minimum_version"), ("max", "maximum_version")):
        version = tls.get(f"ssl_{name}_protocol_version")
        if version:
            setattr(context, attribute, ssl.TLSVersion[version.replace(".", "_")])
    if "sslcert" in tls:
        context.load_cert_chain(
            tls["sslcert"], tls.get("sslkey"), lambda: tls.get("sslpassword", "")
        )
    return context


@contextmanager
def tls_errors_named(where: str, url: PostgresUrl) -> Iterator[None]:
    """Raise TLS errors that name the host and the parameter, which asyncpg's errors do not."""
    mode = url.sslmode or "prefer"
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message or error.reason
        root = url.parameters.get("sslrootcert", "~/.postgresql/root.crt")
        raise TlsError(
            f"the certificate of {where} is refused: {said} (sslrootcert={root}, sslmode={mode})"
        ) from None
    except ssl.SSLError as error:
        files = [n for n in TLS_FILES if n in url.parameters]
        about = f"; look at {', '.join(files)}" if files else ""
        raise TlsError(f"TLS with {where} failed: {error.reason or error}{about}") from None
    except asyncpg.ClientConfigurationError as error:
        raise UrlError(f"{str(error).splitlines()[0]}; {ENCODE}") from None
    except (ValueError, IndexError):
        raise UrlError(f"its hosts, ports or parameters cannot be used; {ENCODE}") from None
