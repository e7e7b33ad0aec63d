"""Decisions about an entity whose row is gone."""

import pytest

from service.core.entities import EntityWrite
from service.core.errors import NotFound
from service.core.ids import IdSource
from service.core.values import Caller, EntityKey
from service.core.writes import Reply, State

DONE = Reply(200, b"{}")
CALLER = Caller("00000000-0000-0000-0000-000000000001", "key_1", "req_1")
DELETE = EntityWrite(
    caller=CALLER,
    operation="delete",
    key=EntityKey(CALLER.workspace_id, "shipment", "ship_1"),
    reply=DONE,
)


def test_a_deletion_whose_entity_is_erased_meanwhile_is_complete() -> None:
    """The call that has removed some of the links is answered 200; one that finds no entity, 404."""
    state = State(IdSource())
    write = EntityWrite(
        caller=CALLER, operation="delete", key=DELETE.key, reply=DONE, continues=True
    )
    assert write.decide(state) == DONE
    with pytest.raises(NotFound):
        DELETE.decide(state)
