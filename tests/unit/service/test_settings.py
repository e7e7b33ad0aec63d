"""Settings: every variable is checked, and whatever is wrong is said at once."""

import re

import pytest

from service.settings import Settings, SettingsError, read_settings

DATABASE = {"DATABASE_URL": "postgresql://localhost/links"}


def refused(**variables: str) -> list[str]:
    """Return the lines with which an environment is refused."""
    with pytest.raises(SettingsError) as refusal:
        read_settings(DATABASE | variables)
    return str(refusal.value).splitlines()


def test_defaults() -> None:
    """Only the database has to be named."""
    assert read_settings({**DATABASE, "PATH": "/bin"}) == Settings(
        database_url="postgresql://localhost/links",
        links_host="127.0.0.1",
        links_port=8080,
        links_workers=1,
        links_pool_size=10,
        links_entity_policy="registered",
        links_rate_limit="1000/minute",
        links_rate_limit_storage="memory",
        links_log_level="info",
    )


def test_variables_are_read() -> None:
    """Numbers come as numbers, and choices are taken."""
    settings = read_settings(
        {**DATABASE, "LINKS_PORT": "0", "LINKS_WORKERS": "4", "LINKS_ENTITY_POLICY": "any"}
    )
    assert (settings.links_port, settings.links_workers) == (0, 4)
    assert settings.links_entity_policy == "any"


def test_an_empty_variable_counts_as_absent() -> None:
    """A variable set to nothing leaves the default."""
    assert read_settings({**DATABASE, "LINKS_PORT": ""}).links_port == 8080


def test_missing_database_is_named() -> None:
    """Without a database the variable is named."""
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: missing variable$"):
        read_settings({})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LINKS_PROT", "LINKS_PORT"),
        ("LINKS_POOLSIZE", "LINKS_POOL_SIZE"),
        ("LINKS_ENTITY", "LINKS_ENTITY_POLICY"),
        ("LINKS_RATE_LIMITS", "LINKS_RATE_LIMIT"),
    ],
)
def test_unknown_variable_names_the_nearest(name: str, nearest: str) -> None:
    """A misspelt variable of ours is an error that names the right one."""
    assert refused(**{name: "1"}) == [f"{name}: unknown variable; did you mean {nearest}?"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LINKS_PORT", "http"),
        ("LINKS_PORT", "65536"),
        ("LINKS_WORKERS", "0"),
        ("LINKS_POOL_SIZE", "-1"),
        ("LINKS_ENTITY_POLICY", "all"),
        ("LINKS_RATE_LIMIT", "many"),
        ("LINKS_RATE_LIMIT", "0/minute"),
        ("LINKS_RATE_LIMIT", "10/second;1000/hour"),
        ("LINKS_RATE_LIMIT", "10/second, 1000/hour"),
        ("LINKS_RATE_LIMIT_STORAGE", "redis"),
        ("LINKS_RATE_LIMIT_STORAGE", "http://localhost:6379"),
        ("LINKS_RATE_LIMIT_STORAGE", "redis://:secret@localhost:port"),
        ("LINKS_RATE_LIMIT_STORAGE", "redis://localhost/first"),
        ("LINKS_CORS_ORIGINS", "example.com"),
        ("LINKS_CORS_ORIGINS", "https://example.com/"),
        ("LINKS_CORS_ORIGINS", "https://a.example,,https://b.example"),
        ("LINKS_REQUEST_TIMEOUT", "0"),
        ("LINKS_IDLE_TIMEOUT", "-1"),
        ("LINKS_MAX_CONNECTIONS", "0"),
        ("LINKS_LOG_LEVEL", "loud"),
        ("DATABASE_URL", "mysql://localhost/links"),
        ("DATABASE_URL", "localhost:5432"),
        ("DATABASE_URL", "postgresql://["),
        ("DATABASE_URL", "postgresql://localhost:port/links"),
        ("DATABASE_URL", "postgresql://localhost,other:port/links"),
    ],
)
def test_wrong_value_names_its_variable(name: str, value: str) -> None:
    """What is no value of a variable is refused in one line that begins with its name."""
    (line,) = refused(**{name: value})
    assert line.startswith(f"{name}: ")


@pytest.mark.parametrize("special", list("/?#@["))
@pytest.mark.parametrize("before", ["s3cret", "5432", ""])
def test_a_password_that_is_not_encoded_is_refused_unseen(special: str, before: str) -> None:
    """Whatever ends the host's part too early is told to be percent-encoded, and not repeated."""
    (line,) = refused(DATABASE_URL=f"postgresql://u:{before}{special}hidden@localhost/links")
    assert line.startswith("DATABASE_URL: ")
    assert "percent-encode" in line
    assert not {"s3cret", "hidden"} & set(re.findall(r"\w+", line))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///links?host=/var/run/postgresql",
        "postgres://u:p%2F%23%3F%40@localhost:5432/links?sslmode=require",
        "postgresql://u@one:5432,two,[::1]:5433/links?target_session_attrs=read-write",
        "postgresql://u@%2Fvar%2Frun/links?user=somebody@example.com",
    ],
)
def test_urls_of_postgres_are_taken(url: str) -> None:
    """Sockets, several hosts, parameters, and passwords as they should be."""
    assert read_settings({"DATABASE_URL": url}).database_url == url


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Three wrong values and an unknown variable make four lines."""
    lines = refused(LINKS_PORT="http", LINKS_WORKERS="0", LINKS_RATE_LIMIT="x", LINKS_PROT="1")
    assert sorted(line.partition(":")[0] for line in lines) == [
        "LINKS_PORT",
        "LINKS_PROT",
        "LINKS_RATE_LIMIT",
        "LINKS_WORKERS",
    ]
