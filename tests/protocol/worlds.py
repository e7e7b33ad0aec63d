"""Initial states of the model."""

from collections.abc import Sequence
from typing import Final

from tests.protocol.postgres import COMMITTED, Postgres, Transaction
from tests.protocol.relay import Worker
from tests.protocol.world import Faults, World

AT_LEAST_ONCE: Final = "at-least-once"
EXACTLY_ONCE: Final = "exactly-once"
NO_FAULTS: Final = Faults()


def world(documents: Sequence[str], faults: Faults = NO_FAULTS, workers: int = 1) -> World:
    """Return a world with a transaction for each string; the string's letters are documents."""
    transactions = tuple(Transaction() for _ in documents)
    return World(Postgres(tuple(documents), transactions), faults, workers=(Worker(),) * workers)


def world_with_history(documents: Sequence[str], faults: Faults) -> World:
    """Return a world whose first transaction is committed, which saves many states."""
    first = world(documents, faults)
    done = Transaction(COMMITTED, xid=3, position=1)
    postgres = first.postgres._replace(
        transactions=(done, *first.postgres.transactions[1:]),
        next_xid=4,
        next_position=2,
        completed_xid=3,
        durable_xid=3,
        durable_position=1,
    )
    return first._replace(postgres=postgres)
