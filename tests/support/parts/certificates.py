"""A certificate authority for one test, made with openssl, and a client's end of TLS without a server."""

import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LOOPBACK = ("IP:127.0.0.1", "DNS:localhost")
NEW_KEY = ("-newkey", "rsa:2048", "-nodes")
DAYS = 10


class Certificate(NamedTuple):
    """A certificate and its private key, as PEM files."""

    cert: Path
    key: Path

    def in_one_file(self) -> Path:
        """Return a file with the key and the certificate: the form of Kafka's PEM keystore."""
        path = self.cert.with_suffix(".both.pem")
        path.write_text(self.key.read_text() + self.cert.read_text())
        return path


class Authority:
    """A CA with its files in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._own = self._files(name)
        _openssl("req", "-x509", *NEW_KEY, "-keyout", self._own.key, "-out", self._own.cert,
                 "-days", DAYS, "-subj", f"/CN={name}")  # fmt: skip

    @property
    def cert(self) -> Path:
        """The CA's certificate, which clients trust."""
        return self._own.cert

    def issue(self, name: str, hosts: Sequence[str] = LOOPBACK, *, days: int = DAYS) -> Certificate:
        """Issue a certificate for these names and addresses; with `days=0` it has expired."""
        issued = self._files(name)
        request = issued.cert.with_suffix(".csr")
        _openssl("req", "-new", *NEW_KEY, "-keyout", issued.key, "-out", request,
                 "-subj", f"/CN={name}", "-addext", f"subjectAltName={','.join(hosts)}")  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-CA", self._own.cert, "-CAkey", self._own.key,
                 "-CAcreateserial", "-copy_extensions", "copy", "-days", days,
                 "-out", issued.cert)  # fmt: skip
        return issued

    def _files(self, name: str) -> Certificate:
        return Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")


def encrypted(key: Path, password: str) -> Path:
    """Encrypt a private key with a password; return the new file."""
    path = key.with_suffix(".encrypted.key")
    _openssl("pkcs8", "-topk8", "-in", key, "-out", path, "-passout", f"pass:{password}")
    return path


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def client_tls(mode: ssl.VerifyMode) -> ssl.SSLObject:
    """Return a client's end of TLS that verifies the server's certificate or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = mode
    return context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
