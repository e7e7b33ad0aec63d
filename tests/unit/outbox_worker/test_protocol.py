"""Every interleaving of the relay's protocol in small worlds; `make test-faults` has larger ones."""

import pytest

from outbox_worker.postgres.cursor import Cursor, Snapshot
from tests.protocol.explore import explore
from tests.protocol.postgres import Postgres
from tests.protocol.relay import Page, Rules
from tests.protocol.world import Faults, Settings, World
from tests.protocol.worlds import AT_LEAST_ONCE, EXACTLY_ONCE, world, world_with_history

SMALL = {
    "three transactions": (world("AAB"), Settings()),
    "a transaction on two documents": (world(["AB", "A"]), Settings()),
    "pages of two": (world("AB"), Settings(batch_size=2)),
    "Postgres crashes": (world("AB", Faults(crashes=1)), Settings()),
    "xids come back": (world_with_history("AAB", Faults(crashes=1)), Settings()),
    "a worker is killed": (world("AB", Faults(kills=1)), Settings()),
    "a leader hangs": (world("AB", Faults(hangs=1), workers=2), Settings()),
    "the volume is restored": (world("A", Faults(restores=1)), Settings()),
    "a standby is promoted": (world("A", Faults(failovers=1)), Settings()),
    "the progress topic is lost": (world("AB", Faults(losses=1)), Settings()),
    "a stranger's transaction": (world("AB", Faults(strangers=1, kills=1)), Settings()),
}
DELIVERIES = {
    "at least once": (AT_LEAST_ONCE, AT_LEAST_ONCE),
    "from at least once to exactly once": (AT_LEAST_ONCE, EXACTLY_ONCE),
    "from exactly once to at least once": (EXACTLY_ONCE, AT_LEAST_ONCE),
}


@pytest.mark.parametrize(("world", "settings"), SMALL.values(), ids=SMALL)
def test_each_event_is_published_once_and_in_order(world: World, settings: Settings) -> None:
    """No interleaving breaks a promise."""
    found = explore(world, settings)
    assert found.violation == "", "\n".join(found.trace)


@pytest.mark.parametrize("deliveries", DELIVERIES.values(), ids=DELIVERIES)
def test_leader_that_hung_changes_nothing_later(deliveries: tuple[str, str]) -> None:
    """In each delivery mode, and after a change of it, nothing that a fenced leader sends is accepted."""
    settings = Settings(deliveries=deliveries)
    found = explore(world("AB", Faults(hangs=1), workers=2), settings)
    assert found.violation == "", "\n".join(found.trace)


def unclipped(_: Snapshot, s1: Snapshot, __: int | None) -> Snapshot:
    """Return a window without clipping: Postgres may assign xids above its rows again after a crash."""
    return s1


class PositionCursor(Rules):
    """A mistaken cursor: the highest published position."""

    def read(self, postgres: Postgres, cursor: Cursor, batch_size: int) -> Page:
        """Return the rows above the cursor's position."""
        rows = [row for row in postgres.rows() if row.position > cursor.after[1]][:batch_size]
        return Page(rows, cursor._replace(after=(0, rows[-1].position)) if rows else cursor)


MISTAKES = {
    "no clipping": (
        world_with_history("AAB", Faults(crashes=1)),
        Settings(
            rules=Rules(
                window_end=unclipped, after_all=lambda s0, s1, x: Cursor(unclipped(s0, s1, x))
            )
        ),
        "lost",
    ),
    "a position as the cursor": (world("AB"), Settings(rules=PositionCursor()), "lost"),
    "a record read below another transaction": (
        world("A", Faults(strangers=1, kills=1)),
        Settings(rules=Rules(reads_below_open_transactions=True)),
        "published twice",
    ),
    "a record trusted by its checkpoint alone": (
        world("AB", Faults(restores=1)),
        Settings(rules=Rules(holds=lambda _, __: True)),
        "lost",
    ),
    "a producer that nobody can fence": (
        world("A", Faults(hangs=1), workers=2),
        Settings(rules=Rules(fences_at_least_once=False), deliveries=(AT_LEAST_ONCE, EXACTLY_ONCE)),
        "published twice",
    ),
}


@pytest.mark.parametrize(("world", "settings", "broken"), MISTAKES.values(), ids=MISTAKES)
def test_known_mistakes_are_found(world: World, settings: Settings, broken: str) -> None:
    """The search finds the interleaving in which a mistake breaks a promise."""
    assert explore(world, settings).violation.startswith(broken)
