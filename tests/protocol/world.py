"""A state of the model: the database, Kafka, the workers, and the faults that may still happen."""

from typing import NamedTuple

from tests.protocol.postgres import Postgres
from tests.protocol.relay import Kafka, Rules, Worker


class Faults(NamedTuple):
    """The number of times that each fault may still happen."""

    crashes: int = 0
    """Postgres crashes."""
    kills: int = 0
    """A worker is killed."""
    hangs: int = 0
    """The leader hangs: the other worker takes the lock, and the leader runs on later."""
    restores: int = 0
    """The volume is restored from an image, on the same timeline."""
    failovers: int = 0
    """A standby with the WAL of the image is promoted, on a new timeline."""
    losses: int = 0
    """The progress topic is deleted."""
    strangers: int = 0
    """Another producer opens a transaction on the progress topic and ends it later."""


class Settings(NamedTuple):
    """The settings of a world, which do not change while it is explored."""

    batch_size: int = 1
    deliveries: tuple[str, str] = ("exactly-once", "exactly-once")
    rules: Rules = Rules()


class World(NamedTuple):
    """A state of the model."""

    postgres: Postgres
    faults: Faults
    kafka: Kafka = Kafka()
    workers: tuple[Worker, ...] = (Worker(), Worker())
    holder: int | None = None
    image: Postgres | None = None
    token: int = 1
    distrusted: bool = False
    """Whether a fault has happened after which the progress record must not be trusted."""
    repeats: bool = False
    """Whether events may be repeated, because a worker has started from the checkpoint."""


Step = tuple[str, World]


class ViolationError(AssertionError):
    """The relay broke a promise."""


def with_worker(world: World, number: int, worker: Worker) -> World:
    """Return the world with one worker changed."""
    workers = world.workers
    return world._replace(workers=(*workers[:number], worker, *workers[number + 1 :]))
