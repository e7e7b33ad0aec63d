"""Postgres in the model: transactions that write events, snapshots, crashes, and restored volumes.

The model has these rules of Postgres:

* a snapshot's xmax is one more than the greatest xid that has completed; its list holds the xids
  below xmax that are in progress (manual, functions-info-snapshot);
* a commit is durable before it is visible to other sessions;
* a crash aborts transactions that are not durable. Postgres may then assign again the xids and the
  positions above the greatest durable ones, depending on how much of their WAL was flushed.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from outbox_worker.postgres.cursor import Snapshot

IDLE: Final = "idle"
OPEN: Final = "open"
DURABLE: Final = "durable"
COMMITTED: Final = "committed"
ABORTED: Final = "aborted"


class Event(NamedTuple):
    """An event's identity; `generation` differs for a transaction that begins after a restore."""

    transaction: int
    generation: int
    document: str


class Row(NamedTuple):
    """A row of the outbox."""

    position: int
    xid: int
    event: Event


class Transaction(NamedTuple):
    """A transaction; its xid and first position are 0 until they are assigned."""

    state: str = IDLE
    xid: int = 0
    position: int = 0
    generation: int = 0


class Postgres(NamedTuple):
    """The state of the database, with the greatest xid and position that survive a crash."""

    documents: tuple[str, ...]
    """The documents of each transaction, one letter each. The transaction writes an event for each."""
    transactions: tuple[Transaction, ...]
    next_xid: int = 3
    next_position: int = 1
    completed_xid: int = 2
    durable_xid: int = 2
    durable_position: int = 0
    checkpoint: "object | None" = None
    """The newest checkpoint (a `relay.Record`)."""
    tokens: frozenset[int] = frozenset()
    """The tokens of all checkpoints in the database."""
    timeline: int = 1

    def snapshot(self) -> Snapshot:
        """Return pg_current_snapshot()."""
        xmax = self.completed_xid + 1
        running = sorted(
            each.xid
            for each in self.transactions
            if each.state in {OPEN, DURABLE} and 0 < each.xid < xmax
        )
        return Snapshot(min(running, default=xmax), xmax, tuple(running))

    def rows(self) -> list[Row]:
        """Return the visible rows, by position."""
        return sorted(
            Row(each.position + offset, each.xid, Event(number, each.generation, document))
            for number, each in enumerate(self.transactions)
            if each.state == COMMITTED
            for offset, document in enumerate(self.documents[number])
        )

    def settled(self) -> bool:
        """Whether every transaction has ended."""
        return all(each.state in {COMMITTED, ABORTED} for each in self.transactions)

    def steps(self) -> Iterator[tuple[str, "Postgres"]]:
        """Yield each step that a transaction can take, and the state after it."""
        for number, each in enumerate(self.transactions):
            name = f"transaction {number}"
            if each.state in {IDLE, OPEN} and not each.xid:
                yield f"{name} takes xid {self.next_xid}", self._take_xid(number)
            if each.state in {IDLE, OPEN} and not each.position and not self._locked(number):
                yield f"{name} takes position {self.next_position}", self._take_position(number)
            if each.state == OPEN and each.xid and each.position:
                yield f"{name} is durable", self._flush(number)
            if each.state == OPEN:
                yield f"{name} rolls back", self._end(number, ABORTED)
            if each.state == DURABLE:
                yield f"{name} is visible", self._end(number, COMMITTED)

    def write_checkpoint(self, checkpoint: object, token: int) -> "Postgres":
        """Commit a checkpoint in a separate transaction."""
        xid = self.next_xid
        return self._replace(
            next_xid=xid + 1,
            completed_xid=max(self.completed_xid, xid),
            durable_xid=max(self.durable_xid, xid),
            checkpoint=checkpoint,
            tokens=self.tokens | {token},
        )

    def crashes(self) -> Iterator[tuple[str, "Postgres"]]:
        """Yield the states after a crash, for each amount of unflushed WAL that may be lost."""
        survivors = tuple(_recovered(each) for each in self.transactions)
        positions = {self.durable_position + 1, self.next_position}
        for next_xid in range(self.durable_xid + 1, self.next_xid + 1):
            for next_position in positions:
                label = f"Postgres goes on with xid {next_xid}, position {next_position}"
                yield (
                    label,
                    self._replace(
                        transactions=survivors,
                        next_xid=next_xid,
                        next_position=next_position,
                        completed_xid=next_xid - 1,
                    ),
                )

    def started_again(self) -> "Postgres":
        """Return the state after a restore: transactions that begin later have a new generation."""
        again = tuple(each._replace(generation=each.generation + 1) if each.state == IDLE else each
                      for each in self.transactions)  # fmt: skip
        return self._replace(transactions=again)

    def _locked(self, number: int) -> bool:
        """Whether another transaction has locked one of this transaction's documents."""
        mine = set(self.documents[number])
        return any(
            each.position and each.state in {OPEN, DURABLE} and mine & set(self.documents[other])
            for other, each in enumerate(self.transactions)
            if other != number
        )

    def _with(self, number: int, changed: Transaction) -> tuple[Transaction, ...]:
        return (*self.transactions[:number], changed, *self.transactions[number + 1 :])

    def _take_xid(self, number: int) -> "Postgres":
        changed = self.transactions[number]._replace(state=OPEN, xid=self.next_xid)
        return self._replace(transactions=self._with(number, changed), next_xid=self.next_xid + 1)

    def _take_position(self, number: int) -> "Postgres":
        changed = self.transactions[number]._replace(state=OPEN, position=self.next_position)
        after = self.next_position + len(self.documents[number])
        return self._replace(transactions=self._with(number, changed), next_position=after)

    def _flush(self, number: int) -> "Postgres":
        each = self.transactions[number]
        last = each.position + len(self.documents[number]) - 1
        return self._replace(
            transactions=self._with(number, each._replace(state=DURABLE)),
            durable_xid=max(self.durable_xid, each.xid),
            durable_position=max(self.durable_position, last),
        )

    def _end(self, number: int, state: str) -> "Postgres":
        each = self.transactions[number]
        changed = each._replace(state=state)
        if state == ABORTED:
            changed = Transaction(ABORTED, generation=each.generation)
        return self._replace(
            transactions=self._with(number, changed),
            completed_xid=max(self.completed_xid, each.xid),
        )


def _recovered(each: Transaction) -> Transaction:
    """Return the state of a transaction after recovery."""
    if each.state == OPEN:
        return Transaction(ABORTED, generation=each.generation)
    return each._replace(state=COMMITTED) if each.state == DURABLE else each
