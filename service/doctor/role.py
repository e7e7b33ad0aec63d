"""The checks of the service's role: its privileges, and settings that would hurt."""

from typing import Final

from service.doctor.checks import Check
from service.settings import Settings
from service.store.database import COMMAND_TIMEOUT_S, Session
from service.store.postgres.connection import SETTINGS

PRIVILEGES: Final = {
    "schema_version": "SELECT",
    "workspaces": "SELECT",
    "api_keys": "SELECT",
    "api_key_uses": "SELECT, INSERT, UPDATE",
    "documents": "SELECT, INSERT, UPDATE",
    "entities": "SELECT, INSERT, UPDATE",
    "document_links": "SELECT, INSERT, UPDATE",
    "idempotency_keys": "SELECT, INSERT, UPDATE, DELETE",
    "erased_documents": "SELECT",
    "outbox": "SELECT, INSERT",  # SELECT tells whether a COMMIT without an answer took effect
}
EXPIRY_PRIVILEGES: Final = {
    "documents": "DELETE",
    "document_links": "DELETE",
    "erased_documents": "INSERT, UPDATE",
    "expiry_sweep": "SELECT, UPDATE",
}
"""The privileges that LINKS_KEEP_DELETED_DAYS needs in addition."""
FUNCTIONS: Final = (
    "add_link",
    "find_link",
    "lock_documents",
    "lock_links",
    "lock_scopes",
    "save_changes",
    "unlink_entity",
)

MISSING_ON_TABLES: Final = """
SELECT format('GRANT %s ON %I TO %I;', privilege, name, current_user)
FROM unnest($1::text[], $2::text[]) AS t (name, privileges)
CROSS JOIN LATERAL regexp_split_to_table(privileges, ', ') AS privilege
WHERE NOT has_table_privilege(name, privilege)
"""

MISSING_ON_FUNCTIONS: Final = """
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I;', p.oid::regprocedure, current_user)
FROM pg_proc AS p
JOIN pg_class AS c ON c.relnamespace = p.pronamespace
WHERE c.oid = 'schema_version'::regclass AND p.proname = ANY ($1)
    AND NOT has_function_privilege(p.oid, 'EXECUTE')
"""

UNIMPORTANT: Final = {"jit", "max_parallel_workers_per_gather", "work_mem"}
"""Settings that the service overrides, but whose defaults do no harm."""

# A setting's value at the start of a session, from the role, the database or the server. $3 milliseconds.
HURTING: Final = """
SELECT s.name, s.reset_val
FROM pg_settings AS s
LEFT JOIN unnest($1::text[], $2::text[]) AS wanted (name, value) ON wanted.name = s.name
WHERE s.reset_val <> wanted.value
    OR (s.name = 'idle_in_transaction_session_timeout' AND s.reset_val::integer BETWEEN 1 AND $3 - 1)
ORDER BY s.name
"""


async def check_privileges(session: Session, settings: Settings) -> Check:
    """Check what the role may do with tables and functions; the remedy is the GRANTs that are missing."""
    wanted = list(PRIVILEGES.items())
    if settings.links_keep_deleted_days:
        wanted += EXPIRY_PRIVILEGES.items()
    rows = await session.fetch(MISSING_ON_TABLES, *map(list, zip(*wanted, strict=True)))
    rows += await session.fetch(MISSING_ON_FUNCTIONS, FUNCTIONS)
    missing = [row[0] for row in rows]
    found = f"{len(missing)} missing" if missing else "all there"
    return Check("privileges", passed=not missing, found=found, mend=" ".join(missing))


async def check_role_settings(session: Session, *, transaction_pooler: bool) -> Check:
    """Find settings that would hurt.

    The service overrides them in each session. Behind a pooler in transaction mode it cannot: a transaction
    may run on a server connection on which the service has set nothing.
    """
    wanted = {name: value for name, value in SETTINGS.items() if name not in UNIMPORTANT}
    rows = await session.fetch(
        HURTING, list(wanted), list(wanted.values()), int(1000 * COMMAND_TIMEOUT_S)
    )
    found = ", ".join(f"{name} = {value}" for name, value in rows) or "none that would hurt"
    if not rows or not transaction_pooler:
        overridden = f"{found}: overridden in each session" if rows else found
        return Check("role settings", passed=True, found=overridden)
    role = await session.fetchval("SELECT quote_ident(session_user)")
    resets = " ".join(f"ALTER ROLE {role} RESET {name};" for name, _ in rows)
    return Check(
        "role settings",
        passed=False,
        found=f"{found}: not overridden behind a pooler in transaction mode",
        mend=f"{resets} Or set them to their defaults for the role, if the database or the server has them",
    )
