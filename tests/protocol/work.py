"""The steps of the workers, and the checks that each step must pass."""

from collections.abc import Iterator

from outbox_worker.postgres.cursor import BEGINNING
from outbox_worker.postgres.registration import RefusedError
from tests.protocol.postgres import Event
from tests.protocol.relay import (
    CHECKED,
    FENCED,
    LEADING,
    LOCKED,
    PUBLISHING,
    STANDBY,
    STARTED,
    Record,
    Worker,
)
from tests.protocol.world import Settings, Step, ViolationError, World, with_worker


def worker_steps(world: World, number: int, settings: Settings) -> Iterator[Step]:
    """Yield each step that a worker can take, and the state after it."""
    worker = world.workers[number]
    if worker.state == STANDBY:
        yield from _take_lock(world, number)
        return
    if world.holder != number:
        yield "notices that it has lost the lock", with_worker(world, number, Worker())
    if worker.state == LOCKED:
        yield _fence(world, number, settings)
    elif worker.state == FENCED:
        yield _find_start(world, number, settings)
    unchecked = worker.state == STARTED or (worker.state == LEADING and worker.unchecked)
    if unchecked and world.holder == number:
        yield "writes a checkpoint", _checkpoint(world, number)
    if worker.state == CHECKED:
        yield _announce(world, number)
    if worker.state == LEADING:
        yield from _read(world, number, settings)
    if worker.state == PUBLISHING:
        yield _publish(world, number, settings)


def _take_lock(world: World, number: int) -> Iterator[Step]:
    locked = Worker(LOCKED)
    if world.holder is None:
        yield "takes the lock", with_worker(world, number, locked)._replace(holder=number)
    elif world.holder != number and world.faults.hangs:
        faults = world.faults._replace(hangs=world.faults.hangs - 1)
        stolen = with_worker(world, number, locked)._replace(holder=number, faults=faults)
        yield "ends the session of the hung leader and takes the lock", stolen


def _fence(world: World, number: int, settings: Settings) -> Step:
    """Start a producer, which fences the earlier ones: Kafka refuses what they send from now on."""
    can = [
        each == "exactly-once" or settings.rules.fences_at_least_once
        for each in settings.deliveries
    ]
    workers = tuple(
        each._replace(fenced=True) if each.state != STANDBY and can[other] else each
        for other, each in enumerate(world.workers)
    )
    after = world._replace(workers=workers)
    return "fences its predecessor", with_worker(after, number, Worker(FENCED))


def _find_start(world: World, number: int, settings: Settings) -> Step:
    try:
        start = settings.rules.start(world.kafka, world.postgres)
    except RefusedError as error:
        raise ViolationError(str(error)) from None
    from_checkpoint = start.source == "checkpoint"
    expected = world.distrusted or "at-least-once" in settings.deliveries
    if from_checkpoint and not expected and world.kafka.published:
        message = f"a start from the checkpoint without a reason: {start.reason}"
        raise ViolationError(message)
    worker = Worker(
        STARTED,
        cursor=start.cursor,
        events=start.events,
        timeline=world.postgres.timeline,
        anchor=start.anchor,
    )
    after = with_worker(world, number, worker)._replace(repeats=world.repeats or from_checkpoint)
    return f"starts from {start.source}: {start.cursor}", after


def _checkpoint(world: World, number: int) -> World:
    """Write a checkpoint. Its token is new only if the database may go back in time: this saves states."""
    worker = world.workers[number]
    goes_back = world.faults.restores + world.faults.failovers or world.distrusted
    token = world.token + 1 if goes_back else world.token
    record = Record(worker.cursor, token, worker.events, worker.timeline, worker.anchor)
    state = CHECKED if worker.state == STARTED else LEADING
    worker = worker._replace(state=state, token=token, unchecked=False)
    postgres = world.postgres.write_checkpoint(record, token)
    return with_worker(world, number, worker)._replace(postgres=postgres, token=token)


def _announce(world: World, number: int) -> Step:
    """Commit a record without events, so that a topic without a record must have been lost."""
    worker = world.workers[number]
    if worker.fenced:
        return "is fenced", with_worker(world, number, Worker())
    record = Record(worker.cursor, worker.token, worker.events, worker.timeline, worker.anchor)
    kafka = world.kafka._replace(record=record)
    leading = with_worker(world, number, worker._replace(state=LEADING))
    return "commits a record of its start", leading._replace(kafka=kafka)


def _read(world: World, number: int, settings: Settings) -> Iterator[Step]:
    worker = world.workers[number]
    rows, cursor, anchor = settings.rules.read(world.postgres, worker.cursor, settings.batch_size)
    if rows:
        page = tuple(row.event for row in rows)
        worker = worker._replace(
            state=PUBLISHING, page=page, after=cursor, anchor=anchor or worker.anchor
        )
        yield f"reads {page}", with_worker(world, number, worker)
    elif cursor != worker.cursor:
        yield "comes to a window's end", with_worker(world, number, worker._replace(cursor=cursor))
    elif world.holder == number and world.postgres.settled():
        _check_complete(world)


def _check_complete(world: World) -> None:
    lost = [row.event for row in world.postgres.rows() if row.event not in world.kafka.published]
    if lost:
        message = f"lost: {lost}"
        raise ViolationError(message)


def _publish(world: World, number: int, settings: Settings) -> Step:
    worker = world.workers[number]
    if worker.fenced:
        return "is fenced", with_worker(world, number, Worker())
    if settings.deliveries[number] == "at-least-once" and worker.page:
        first, *rest = worker.page
        worker = worker._replace(
            page=tuple(rest), sent=worker.sent | {first}, events=worker.events + 1
        )
        return f"appends {first}", with_worker(_append(world, first), number, worker)
    for event in worker.page:
        world = _append(world, event)
    events = worker.events + len(worker.page)
    record = Record(worker.after, worker.token, events, worker.timeline, worker.anchor)
    recorded = worker.sent | set(worker.page)
    kafka = world.kafka._replace(record=record, unrecorded=world.kafka.unrecorded - recorded)
    done = worker._replace(
        state=LEADING,
        cursor=worker.after,
        events=events,
        unchecked=True,
        page=(),
        sent=frozenset(),
        after=BEGINNING,
    )
    after = with_worker(world._replace(kafka=kafka), number, done if worker.connected else Worker())
    return f"commits {worker.page} and {worker.after}", after


def _append(world: World, event: Event) -> World:
    kafka = world.kafka
    if event in kafka.published - kafka.unrecorded and not world.repeats:
        message = f"published twice: {event}"
        raise ViolationError(message)
    _check_order(world, event, kafka.published)
    return world._replace(
        kafka=kafka._replace(
            published=kafka.published | {event}, unrecorded=kafka.unrecorded | {event}
        )
    )


def _check_order(world: World, event: Event, published: frozenset[Event]) -> None:
    """See that earlier events of the document are published. A restore may have removed the event's row."""
    rows = world.postgres.rows()
    position = next((row.position for row in rows if row.event == event), 0)
    for row in rows:
        earlier = row.event.document == event.document and row.position < position
        if earlier and row.event not in published:
            message = f"published {event} before {row.event}"
            raise ViolationError(message)
