"""The faults of the database, of Kafka and of the workers."""

from collections.abc import Iterator

from tests.protocol.postgres import Postgres
from tests.protocol.relay import PUBLISHING, STANDBY, Worker
from tests.protocol.world import Faults, Step, World, with_worker


def fault_steps(world: World) -> Iterator[Step]:
    """Yield each fault that may still happen, and the state after it."""
    faults, postgres = world.faults, world.postgres
    if faults.kills:
        fewer = world._replace(faults=faults._replace(kills=faults.kills - 1))
        for number, worker in enumerate(world.workers):
            if worker.state != STANDBY:
                holder = None if world.holder == number else world.holder
                yield (
                    f"worker {number} is killed",
                    with_worker(fewer, number, Worker())._replace(holder=holder),
                )
    if faults.crashes:
        fewer = world._replace(faults=faults._replace(crashes=faults.crashes - 1))
        for label, recovered in postgres.crashes():
            yield f"crash: {label}", _disconnected(fewer._replace(postgres=recovered))
    if world.image is None and faults.restores + faults.failovers:
        yield "an image of the volume is taken", world._replace(image=postgres)
    yield from _back_in_time(world)
    if faults.losses and world.kafka.record is not None:
        kafka = world.kafka._replace(record=None)
        fewer = world._replace(faults=faults._replace(losses=faults.losses - 1))
        yield "the progress topic is lost", fewer._replace(kafka=kafka, distrusted=True)
    yield from _stranger(world)


def _stranger(world: World) -> Iterator[Step]:
    kafka, strangers = world.kafka, world.faults.strangers
    if kafka.hidden:
        ended = kafka._replace(hidden=False, readable=None)
        yield "the stranger's transaction ends", world._replace(kafka=ended)
    elif strangers:
        opened = kafka._replace(hidden=True, readable=kafka.record)
        faults = world.faults._replace(strangers=strangers - 1)
        after = world._replace(kafka=opened, faults=faults, distrusted=True)
        yield "a stranger opens a transaction on the progress topic", after


def _back_in_time(world: World) -> Iterator[Step]:
    if world.image is None or world.image == world.postgres:
        return
    faults = world.faults
    if faults.restores:
        fewer = faults._replace(restores=faults.restores - 1)
        for label, recovered in world.image.crashes():
            yield f"restore: {label}", _restored(world, recovered, fewer)
    if faults.failovers:
        fewer = faults._replace(failovers=faults.failovers - 1)
        timeline = world.postgres.timeline + 1
        for label, recovered in world.image.crashes():
            promoted = recovered._replace(timeline=timeline)
            yield f"failover: {label}", _restored(world, promoted, fewer)


def _restored(world: World, postgres: Postgres, faults: Faults) -> World:
    again = postgres.started_again()
    restored = world._replace(postgres=again, faults=faults, image=None, distrusted=True)
    return _disconnected(restored)


def _disconnected(world: World) -> World:
    """End all sessions. A worker that is publishing a page may still finish it."""
    workers = tuple(
        worker._replace(connected=False) if worker.state == PUBLISHING else Worker()
        for worker in world.workers
    )
    return world._replace(workers=workers, holder=None)
