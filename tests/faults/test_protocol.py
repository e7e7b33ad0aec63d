"""The relay's protocol in larger worlds: every interleaving, some million states each."""

import pytest

from tests.protocol.explore import explore
from tests.protocol.world import Faults, Settings, World
from tests.protocol.worlds import AT_LEAST_ONCE, EXACTLY_ONCE, world, world_with_history

LARGE = {
    "three transactions, a crash": (world("AAB", Faults(crashes=1)), Settings()),
    "three transactions, pages of two": (world(["AB", "A", "B"]), Settings(batch_size=2)),
    "a crash, a kill and a hung leader": (
        world("AB", Faults(crashes=1, kills=1, hangs=1), workers=2),
        Settings(),
    ),
    "two crashes": (world_with_history("AAB", Faults(crashes=2)), Settings()),
    "a restored volume": (world("AB", Faults(restores=1)), Settings()),
    "a restored volume and a kill": (world("A", Faults(restores=1, kills=1)), Settings()),
    "a failover": (world("AB", Faults(failovers=1)), Settings()),
    "a failover and a hung leader": (world("A", Faults(failovers=1, hangs=1), 2), Settings()),
    "a stranger's transaction and a hung leader": (
        world("AB", Faults(strangers=1, hangs=1), workers=2),
        Settings(),
    ),
    "a lost progress topic and a crash": (world("AB", Faults(losses=1, crashes=1)), Settings()),
    "at least once, a crash and a hung leader": (
        world("AB", Faults(crashes=1, hangs=1), workers=2),
        Settings(deliveries=(AT_LEAST_ONCE, AT_LEAST_ONCE)),
    ),
    "the mode is changed, a kill and a hung leader": (
        world("AB", Faults(kills=1, hangs=1), workers=2),
        Settings(deliveries=(AT_LEAST_ONCE, EXACTLY_ONCE)),
    ),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("world", "settings"), LARGE.values(), ids=LARGE)
def test_each_event_is_published_once_and_in_order(world: World, settings: Settings) -> None:
    """No interleaving breaks a promise."""
    found = explore(world, settings)
    print(f"{found.states:,} states")  # noqa: T201 - the size of the proof is part of its outcome
    assert found.violation == "", "\n".join(found.trace)
