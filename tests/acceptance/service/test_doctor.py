"""`python -m service doctor` as a process: what passes, what fails, and the remedies."""

import json
import os
import subprocess
import sys
from typing import Any

from deploy.local.postgres import Postgres
from tests.support.parts.pooler import Pooler
from tests.support.parts.redis import Redis
from tests.support.parts.tls_postgres import BY_NAME, tls_server
from tests.support.programs.main_jobs import ground

Checks = dict[str, dict[str, Any]]
CHECKS = {
    *("settings", "database", "tls", "pooler", "schema", "primary", "privileges", "role settings"),
    *("connections", "durability", "clock", "rate limits", "open files"),
}


def examine(code: int, database: str, **variables: str) -> Checks:
    """Run `doctor` to its end; return its checks by name."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LINKS_")}
    done = subprocess.run(
        [sys.executable, "-m", "service", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**kept, "DATABASE_URL": database, "LINKS_MAX_CONNECTIONS": "100", **variables},
    )
    assert (done.returncode, done.stderr) == (code, "")
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def failed(checks: Checks) -> set[str]:
    """Return the names of the checks that fail, except for fsync, which the tests switch off."""
    return {name for name, check in checks.items() if not check["passed"]} - {"durability"}


async def test_a_healthy_installation_passes(database: str) -> None:
    """All checks but that of fsync, which the tests switch off, pass; Redis is among them."""
    with Redis() as redis:
        checks = examine(1, database, LINKS_RATE_LIMIT_STORAGE=redis.url)
    assert failed(checks) == set()
    assert checks["rate limits"]["found"] == "Redis answers"
    assert set(checks) == CHECKS


def test_wrong_settings_are_a_check() -> None:
    """Wrong settings are a check in the report, and the exit code is 2."""
    checks = examine(2, "postgresql://nobody@127.0.0.1:1/none", LINKS_PROT="1")
    assert "did you mean LINKS_PORT?" in checks["settings"]["found"]


def test_an_unreachable_database_and_redis_each_fail() -> None:
    """Without Postgres and Redis each fails its check, and the others are still made."""
    checks = examine(1, "postgresql://nobody@127.0.0.1:1/none",
                     LINKS_RATE_LIMIT_STORAGE="redis://127.0.0.1:1/0")  # fmt: skip
    assert failed(checks) == {"database", "rate limits"}
    assert checks["open files"]["passed"]


def test_tls_that_the_server_refuses_fails(database: str) -> None:
    """If DATABASE_URL requires TLS and the server has none, the check of the database fails."""
    checks = examine(1, f"{database}?sslmode=require")
    assert failed(checks) == {"database"}
    assert "DATABASE_URL" in checks["database"]["mend"]


def test_a_certificate_that_is_refused_fails(database: str) -> None:
    """A certificate of an unknown CA fails the check `tls`; that of the named CA is verified."""
    with tls_server(database) as server:
        url = server.url(BY_NAME, sslmode="verify-full", sslrootcert=str(server.other_ca))
        refused = examine(1, url)
        url = server.url(BY_NAME, sslmode="verify-full", sslrootcert=str(server.ca))
        verified = examine(1, url)
    assert failed(refused) == {"tls"}
    assert "the certificate of localhost" in refused["tls"]["found"]
    assert "sslrootcert" in refused["tls"]["mend"]
    assert failed(verified) == set()
    assert "certificate is verified" in verified["tls"]["found"]


async def test_a_missing_schema_names_the_migration(empty_database: str) -> None:
    """The remedy for a database without the schema is the command that makes it."""
    checks = examine(1, empty_database)
    assert failed(checks) == {"schema"}
    assert checks["schema"]["mend"] == "python -m service migrate"


TAKEN_AWAY = (
    "REVOKE UPDATE ON documents FROM {role}",
    "REVOKE DELETE ON document_links FROM {role}",
    "REVOKE UPDATE ON expiry_sweep FROM {role}",
    "REVOKE EXECUTE ON FUNCTION save_changes FROM PUBLIC",
)


async def test_the_roles_settings_and_rights_are_checked(postgres: Postgres) -> None:
    """Each missing right has a GRANT that can be pasted; a read-only role and a low limit fail too."""
    hurting = {"default_transaction_read_only": "on", "statement_timeout": "50ms"}
    async with ground(postgres, hurting) as at:
        await at.owner.execute(f"ALTER ROLE {at.role} CONNECTION LIMIT 5")
        for statement in TAKEN_AWAY:
            await at.owner.execute(statement.format(role=at.role))
        checks = examine(1, at.url, LINKS_KEEP_DELETED_DAYS="30")
        kept = examine(1, at.url)
        await at.owner.execute(f"ALTER ROLE {at.role} RESET ALL")
        await at.owner.execute(checks["privileges"]["mend"])
        mended = examine(1, at.url, LINKS_KEEP_DELETED_DAYS="30")
    assert failed(checks) == {"connections", "primary", "privileges"}
    assert [each["privileges"]["found"] for each in (checks, kept)] == ["4 missing", "2 missing"]
    assert "statement_timeout = 50: overridden" in checks["role settings"]["found"]
    assert failed(mended) == {"connections"}


async def test_a_pooler_that_loses_statements_fails(database: str) -> None:
    """A transaction pooler without prepared statements fails; one in session mode passes."""
    with Pooler(database, "transaction") as pooler:
        checks = examine(1, pooler.url)
    assert failed(checks) == {"pooler"}
    with Pooler(database, "session") as pooler:
        assert failed(examine(1, pooler.url)) == set()
