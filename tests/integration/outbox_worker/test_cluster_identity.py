"""The identity of a database, also on a managed Postgres that shows only a part of it."""

from uuid import uuid4

import pytest

from outbox_worker.postgres.registration import UNREADABLE, read_cluster_identity
from outbox_worker.postgres.sessions import connect, disconnect
from tests.support.parts.shared import execute

CURRENT = "pg_current_wal_lsn()"
CONTROLS = ("pg_control_system()", "pg_control_checkpoint()")


@pytest.mark.parametrize(
    ("revoked", "undetected"),
    [
        ((CURRENT,), 0),
        (CONTROLS, 1),
        ((CURRENT, *CONTROLS), 2),
    ],
)
async def test_identity_without_the_right_to_a_function(
    database: str, revoked: tuple[str, ...], undetected: int
) -> None:
    """Without the right to a function, the worker reads the identity in another way, or as `unreadable`."""
    role = f"role_{uuid4().hex}"
    rights = [f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC" for function in revoked]
    await execute(database, f"CREATE ROLE {role} LOGIN", *rights)
    as_role = await connect(database.replace("postgres@", f"{role}@"), "test", timeout_s=5)
    as_owner = await connect(database, "test", timeout_s=5)
    try:
        identity, truth = (
            await read_cluster_identity(as_role),
            await read_cluster_identity(as_owner),
        )
    finally:
        await disconnect(as_role)
        await disconnect(as_owner)
        await execute(database, f"DROP ROLE {role}")
    assert len(identity.undetected()) == undetected
    assert truth.undetected() == []
    assert identity.timeline in {truth.timeline, UNREADABLE}
