"""A faulty proxy before the server of a Postgres URL."""

from urllib.parse import urlsplit

from tests.support.faults.tcp import FaultyProxy


class PostgresProxy(FaultyProxy):
    """A faulty proxy; `dsn` is the database's URL through it."""

    def __init__(self, database: str, own_port: int = 0, *, own_host: str = "127.0.0.1") -> None:
        self._parts = urlsplit(database)
        server = self._parts.hostname or "", self._parts.port or 5432
        super().__init__(*server, own_port, own_host=own_host)

    @property
    def dsn(self) -> str:
        """The database's URL through the proxy."""
        credentials, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{credentials}{at}{self.address}").geturl()
