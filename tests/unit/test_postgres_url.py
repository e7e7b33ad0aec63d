"""Connection strings: each parameter of libpq works, is ignored for a reason, or is refused by name."""

from pathlib import Path
from types import ModuleType

import pytest

import outbox_worker.postgres.url
import service.store.postgres.url
from outbox_worker.postgres.url import IGNORED, PARAMETERS, REFUSED, USED, Host, UrlError, read_url

# Of the manual, section 34.1.2 "Parameter Key Words", Postgres 18.
LIBPQ = frozenset({
    *("host", "hostaddr", "port", "dbname", "user", "password", "passfile", "require_auth"),
    *("channel_binding", "connect_timeout", "client_encoding", "options", "application_name"),
    *("fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval"),
    *("keepalives_count", "tcp_user_timeout", "replication", "gssencmode", "sslmode", "requiressl"),
    *("sslnegotiation", "sslcompression", "sslcert", "sslkey", "sslkeylogfile", "sslpassword"),
    *("sslcertmode", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "min_protocol_version"),
    *("max_protocol_version", "krbsrvname", "gsslib", "gssdelegation", "scram_client_key"),
    *("scram_server_key", "service", "target_session_attrs", "load_balance_hosts"),
    *("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
})  # fmt: skip
ALIKE = (
    "catalogue.py",
    "command_line.py",
    "environment.py",
    "incident.py",
    "logs.py",
    "release.py",
)
MODULES = [outbox_worker.postgres.url, service.store.postgres.url]
ACCEPTED = {
    "sslmode=verify-full&channel_binding=require",
    "channel_binding=prefer&connect_timeout=10&gssencmode=disable&target_session_attrs=any",
    "sslrootcert=system",
    "sslmode=require&options=endpoint%3Dep-1&application_name=a@b",
    "keepalives_idle=30&tcp_user_timeout=0&load_balance_hosts=random",
}
REFUSALS = {
    "sslmode=s3cret": "sslmode",
    "channel_binding=require&sslmode=require": "channel_binding",
    "require_auth=scram-sha-256": "require_auth",
    "gssencmode=require": "gssencmode",
    "target_session_attrs=standby": "target_session_attrs",
    "replication=database": "replication",
    "sslrootcert=system&sslmode=require": "sslmode",
    "sslnegotiation=direct": "sslnegotiation",
    "connect_timeout=s3cret": "connect_timeout",
    "port=s3cret": "port",
    "search_path=s3cret": "search_path",
    "hostaddr=127.0.0.1&sslmode=verify-full": "hostaddr",
}


@pytest.mark.parametrize(
    "copy",
    [
        *ALIKE,
        *(f"postgres/{name}.py" for name in ("connection", "hosts", "tls", "url")),
    ],
)
def test_both_programs_hold_the_same_module(copy: str) -> None:
    """The copies of the module are identical, because neither program may import the other."""
    of_service = Path("service", copy if copy in ALIKE else f"store/{copy}")
    assert Path("outbox_worker", copy).read_bytes() == of_service.read_bytes()


def test_every_parameter_of_libpq_is_decided() -> None:
    """Each parameter is in the table, in one column unless its value decides."""
    assert PARAMETERS.issuperset(LIBPQ)
    assert not USED & (IGNORED | REFUSED.keys())


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("query", sorted(ACCEPTED))
def test_strings_of_vendors_are_taken(module: ModuleType, query: str) -> None:
    """Both programs accept the URLs that Neon, Azure, Supabase and others print."""
    for scheme in ("postgres", "postgresql"):
        module.read_url(f"{scheme}://u:p%40@host:5432/db?{query}")


@pytest.mark.parametrize(("query", "name"), REFUSALS.items())
def test_unusable_parameters_are_refused(query: str, name: str) -> None:
    """The line begins with the parameter's name and does not have its value."""
    with pytest.raises(UrlError) as refusal:
        read_url(f"postgresql://u@host/db?{query}")
    assert str(refusal.value).startswith(f"{name}: ")
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        (
            "postgres://u@[::1],b:1,[fe80::1%25eth0]:2/db",
            [("::1", 0), ("b", 1), ("fe80::1%eth0", 2)],
        ),
        ("postgres://u@/db?host=a,::1&port=1,2", [("a", 1), ("::1", 2)]),
        ("postgres://u@/db?host=%2Fvar%2Frun", [("/var/run", 0)]),
        ("postgres://u@a,b:7/db?port=6", [("a", 6), ("b", 7)]),
        ("postgres:///db", [(None, 0)]),
    ],
)
def test_several_hosts_are_read(url: str, hosts: list[tuple[str | None, int]]) -> None:
    """IPv6 addresses, sockets and ports are parsed by each Python version."""
    assert read_url(url).hosts == [Host(*host) for host in hosts]


def test_a_plus_is_a_plus() -> None:
    """A query is percent-encoded as in libpq, where `+` is no space."""
    assert read_url("postgres://h/d?user=a+b&password=%2B").parameters["user"] == "a+b"


def test_a_service_file_is_read(tmp_path: Path) -> None:
    """`service` adds parameters from a section of libpq's service file."""
    file = tmp_path / "services"
    file.write_text("[links]\nhost=one,two\nport=7\ndbname=links\nuser=u\n")
    read = read_url(f"postgresql:///?service=links&servicefile={file}&user=other")
    assert read.hosts == [Host("one", 7), Host("two", 7)]
    assert (read.parameters["user"], read.parameters["dbname"]) == ("other", "links")
