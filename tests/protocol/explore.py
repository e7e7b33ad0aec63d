"""Breadth-first search through all states of a world."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from tests.protocol.faults import fault_steps
from tests.protocol.work import worker_steps
from tests.protocol.world import Settings, Step, ViolationError, World


class Found(NamedTuple):
    """The number of states, and the first violation with the shortest sequence of steps to it."""

    states: int
    violation: str = ""
    trace: tuple[str, ...] = ()


def steps(world: World, settings: Settings) -> Iterator[Step]:
    """Yield each possible next step, with the state after it."""
    for label, postgres in world.postgres.steps():
        yield label, world._replace(postgres=postgres)
    for number in range(len(world.workers)):
        for label, after in worker_steps(world, number, settings):
            yield f"worker {number} {label}", after
    yield from fault_steps(world)


def explore(world: World, settings: Settings, most_states: int = 50_000_000) -> Found:
    """Visit each state once, nearest first, so that the first violation has the shortest trace."""
    came_from: dict[int, tuple[int, str]] = {hash(world): (0, "")}
    queue = deque([world])
    while queue:
        state = queue.popleft()
        here = hash(state)
        try:
            for label, after in steps(state, settings):
                there = hash(after)
                if there not in came_from:
                    came_from[there] = (here, label)
                    queue.append(after)
        except ViolationError as error:
            return Found(len(came_from), str(error), _trace(came_from, here))
        assert len(came_from) <= most_states
    return Found(len(came_from))


def _trace(came_from: dict[int, tuple[int, str]], state: int) -> tuple[str, ...]:
    labels = []
    while state:
        state, label = came_from[state]
        labels.append(label)
    return tuple(reversed(labels))
