"""What a relay is to the measurements: something that takes a database's events to a topic."""

from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple, Protocol

from deploy.local.process import Process
from tests.benchmarks.stage import Database

AT_LEAST_ONCE: Final = "at-least-once"
EXACTLY_ONCE: Final = "exactly-once"
DELIVERIES: Final = (AT_LEAST_ONCE, EXACTLY_ONCE)
COMPRESSIONS: Final = ("none", "zstd")


class Variant(NamedTuple):
    """The delivery guarantee and the compression of a relay."""

    delivery: str
    compression: str = "none"

    @property
    def name(self) -> str:
        """What its figures are named by: `exactly-once`, `exactly-once.zstd`."""
        return self.delivery if self.compression == "none" else ".".join(self)


class Waiting(NamedTuple):
    """A database whose events wait for its relay."""

    database: Database
    relayed: "Relayed"


class Relayed(Protocol):
    """Lets the relay run, to a topic, for as long as the context lasts."""

    def __call__(self, topic: str) -> AbstractAsyncContextManager[Process]:
        """Yield the relay's process."""


class Relay(Protocol):
    """A relay with a delivery guarantee; its name begins the names of its figures."""

    name: str
    warm: bool

    def waiting(self, events: int) -> AbstractAsyncContextManager[Waiting]:
        """Yield a database with so many events."""
