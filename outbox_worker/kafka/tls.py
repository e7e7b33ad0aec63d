"""The TLS context of Kafka clients, made from the files that the KAFKA_SSL_… variables name."""

import ssl
from pathlib import Path
from typing import NamedTuple

CA_FILE = "KAFKA_SSL_CAFILE"
CERT_FILE = "KAFKA_SSL_CERTFILE"
KEY_FILE = "KAFKA_SSL_KEYFILE"
VARIABLES = (CA_FILE, CERT_FILE, KEY_FILE)


class UnusableFileError(OSError):
    """A file cannot be read or has the wrong content; the text names the file and its variable."""


class Files(NamedTuple):
    """The files for TLS: the trusted CA (None: the system's), the client's certificate (None: none) and key.

    Each connection reads the files again, so a rotation of certificates needs no restart.
    """

    ca: str | None
    certificate: str | None
    key: str | None

    def context(self) -> ssl.SSLContext:
        """Return a context made from the files; UnusableFileError if a file cannot be used."""
        for variable, path in zip(VARIABLES, self, strict=True):
            if path is not None:
                _check_readable(variable, path)
        try:
            made = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError as error:
            message = f"{CA_FILE}: {self.ca} holds no CA certificate in PEM form"
            raise UnusableFileError(message) from error
        # Python 3.13 sets this flag. It refuses a private CA without some extensions of RFC 5280,
        # which Java's clients, OpenSSL by default and older versions of Python accept.
        made.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.certificate is not None:
            _load(made, self.certificate, self.key)
        return made


def _check_readable(variable: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        message = f"{variable}: {path} cannot be read: {error.strerror}"
        raise UnusableFileError(message) from error


def _load(made: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    """Load the client's certificate. A key with a password is refused, and no password is asked for."""
    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        made.load_cert_chain(certfile, keyfile, password)
    except (ssl.SSLError, ValueError) as error:
        if asked:
            message = f"{KEY_FILE}: {keyfile} is encrypted; decrypt it: openssl pkey -in … -out …"
        elif getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            message = f"{KEY_FILE}: {keyfile} is not the key of {CERT_FILE}: {certfile}"
        else:
            message = f"{CERT_FILE}: {certfile} or {KEY_FILE}: {keyfile} is not in PEM form"
        raise UnusableFileError(message) from error
