"""A Postgres with TLS, and certificate authorities of which one has issued its certificate."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from deploy.local.process import UNPRIVILEGED
from tests.support.parts.certificates import Authority
from tests.support.parts.pooler import Pooler

BY_ADDRESS, BY_NAME = "127.0.0.1", "localhost"


class TlsServer(NamedTuple):
    """A Postgres with TLS whose certificate is for the host name, not for the address."""

    port: int
    database: str
    ca: Path
    other_ca: Path

    def url(self, host: str, **parameters: str) -> str:
        """Return the superuser's URL."""
        return f"postgresql://postgres@{host}:{self.port}/{self.database}?{urlencode(parameters)}"


@contextmanager
def tls_server(url: str) -> Iterator[TlsServer]:
    """Yield a database behind PgBouncer, which ends TLS: the wheel's Postgres is built without it."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-tls-"))
    folder.chmod(0o755)
    authority, other = Authority(folder), Authority(folder, "other-ca")
    issued = authority.issue("postgres", [f"DNS:{BY_NAME}"])
    if UNPRIVILEGED is not None:
        shutil.chown(issued.key, UNPRIVILEGED)
    tls = {
        "client_tls_sslmode": "require",
        "client_tls_cert_file": str(issued.cert),
        "client_tls_key_file": str(issued.key),
    }
    with Pooler(url, "session", settings=tls) as pooler:
        parts = urlsplit(pooler.url)
        yield TlsServer(parts.port or 0, parts.path[1:], authority.cert, other.cert)
    shutil.rmtree(folder)
