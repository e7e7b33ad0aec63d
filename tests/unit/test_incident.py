"""An incident lasts from the first failure to the end, and has one line for each kind of failure."""

from service.incident import Incident


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_each_kind_is_new_once() -> None:
    """Kinds that alternate are new once each, until a success has ended the incident."""
    incident = Incident()
    assert [kind for kind in "ABABAB" if incident.fail(kind)] == ["A", "B"]
    assert incident.lasts
    assert (incident.succeed(), incident.succeed()) == (6, 0)
    assert not incident.lasts
    assert incident.fail("A")


def test_successes_between_failures_do_not_end_it() -> None:
    """While calls alternately fail and succeed the incident goes on; it ends after the quiet time."""
    clock = Clock()
    incident = Incident(10, clock)
    new = []
    for _ in range(5):
        new.append(incident.fail("A"))
        clock.now += 9
        assert incident.succeed() == 0
    clock.now += 1
    assert new == [True, False, False, False, False]
    assert incident.succeed() == 5
