"""The ring's fill: the state and the size of each of its days."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

import asyncpg

from outbox_worker.relay.retention import DAY_S, SLOTS

State = Literal["empty", "published", "unpublished", "clearing"]
STATES: Final[tuple[State, ...]] = get_args(State)

# The partitions of the outbox.
OF_THE_SLOTS = """
FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid AND i.inhparent = 'outbox'::regclass
"""

# Only the catalogue and the sizes of files are read. The last two digits of a partition's name are its
# slot. A slot that was truncated has no data, but its indexes have a page.
SIZES = f"""
SELECT right(c.relname, 2)::int AS slot, pg_relation_size(c.oid) AS data,
    pg_total_relation_size(c.oid) AS total, extract(EPOCH FROM now())::float8 AS now
{OF_THE_SLOTS}
"""  # noqa: S608 - a constant of this module


class Day(NamedTuple):
    """One slot of the ring; `bytes` includes its indexes."""

    slot: int
    state: State
    bytes: int


async def read(
    connection: asyncpg.Connection, *, oldest_s: float | None, clearing: int | None
) -> list[Day]:
    """Return the ring's days.

    `oldest_s` is the age of the oldest unpublished event, None if there is none. `clearing` is the slot
    that retention is checking or truncating, None if there is none.
    """
    days = []
    for slot, data, total, now in await connection.fetch(SIZES):
        since = None if oldest_s is None else int((now - oldest_s) // DAY_S)
        state: State = (
            "clearing"
            if slot == clearing
            else state_of(slot, today=int(now // DAY_S), unpublished_since=since, empty=not data)
        )
        days.append(Day(slot, state, total))
    return days


def state_of(slot: int, *, today: int, unpublished_since: int | None, empty: bool) -> State:
    """Return the state of a slot that is not being cleared; days are counted from 1970.

    A slot holds the last day of its number, modulo the number of slots, that is not after today.
    """
    if empty:
        return "empty"
    day = today - (today - slot) % SLOTS
    unpublished = unpublished_since is not None and day >= unpublished_since
    return "unpublished" if unpublished else "published"


def count(days: Sequence[Day]) -> Mapping[str, int]:
    """Return the number of days in each state."""
    found = Counter(day.state for day in days)
    return {state: found[state] for state in STATES}
