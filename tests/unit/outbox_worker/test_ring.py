"""The state of a day of the ring follows from the oldest unpublished event."""

import pytest

from outbox_worker.relay import ring

TODAY = 20_000  # slot 0


@pytest.mark.parametrize(
    ("slot", "since", "state"),
    [
        (0, None, "published"),
        (0, TODAY, "unpublished"),
        (15, TODAY, "published"),
        (15, TODAY - 1, "unpublished"),
        (14, TODAY - 1, "published"),
        (1, TODAY - 14, "published"),  # 15 days old
        (1, TODAY - 15, "unpublished"),
        (1, TODAY - 40, "unpublished"),
    ],
)
def test_a_day_is_unpublished_from_the_oldest_unpublished_event_on(
    slot: int, since: int | None, state: str
) -> None:
    """A slot holds the last day of its number that is not after today."""
    assert ring.state_of(slot, today=TODAY, unpublished_since=since, empty=False) == state


def test_each_state_is_counted() -> None:
    """A state that no day has is counted as 0."""
    days = [ring.Day(0, "empty", 8), ring.Day(1, "empty", 8), ring.Day(2, "clearing", 8)]
    assert ring.count(days) == {"empty": 2, "published": 0, "unpublished": 0, "clearing": 1}
