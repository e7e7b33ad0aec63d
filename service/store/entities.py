"""Rows of `entities`: what documents can be linked to."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from service.core.changes import EntityKey
from service.core.decide import State
from service.core.requests import Idempotency, Reply
from service.store.database import Database
from service.store.execute import replay_one
from service.store.registration import register_entities
from service.store.transaction import Witness, transact_alone
from service.store.write import StoredReply, write_changes

if TYPE_CHECKING:
    from service.store.database import Connection

MOMENT: Final = "SELECT clock_timestamp()"


class EntityWriter:
    """Writes entities, each call in transactions of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(
        self, key: EntityKey, respond: Callable[[bool], Reply], idempotency: Idempotency | None
    ) -> Reply:
        """Make the entity known; `respond` is told whether it was not before."""

        async def step(connection: "Connection") -> tuple[Reply, Witness | None]:
            stored = await replay_one(connection, key[0], idempotency)
            if stored is not None:
                return stored, None
            registered = await register_entities(connection, [key]) > 0
            reply = respond(registered)
            if not registered and idempotency is None:
                return reply, None
            state = State(await connection.fetchval(MOMENT))
            replies = [StoredReply.for_call(key[0], idempotency, reply)]
            return reply, await write_changes(connection, state, replies)

        return await transact_alone(self._database, step)
