"""The service's settings: each variable is checked, and all errors are reported at once."""

import pytest

from service.environment import SettingsError
from service.settings import Settings, read_settings

DATABASE = {"DATABASE_URL": "postgresql://localhost/links"}


def refused(**variables: str) -> list[str]:
    """Return the lines with which an environment is refused."""
    with pytest.raises(SettingsError) as refusal:
        read_settings(DATABASE | variables)
    return str(refusal.value).splitlines()


def test_defaults() -> None:
    """Only the database is required."""
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
    """Numbers are decoded, and choices are accepted."""
    settings = read_settings(
        {**DATABASE, "LINKS_PORT": "0", "LINKS_WORKERS": "4", "LINKS_ENTITY_POLICY": "any"}
    )
    assert (settings.links_port, settings.links_workers) == (0, 4)
    assert settings.links_entity_policy == "any"


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
    """A misspelt LINKS_ variable is refused with the right name."""
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
    ],
)
def test_wrong_value_names_its_variable(name: str, value: str) -> None:
    """A wrong value is refused in one line that begins with the variable."""
    (line,) = refused(**{name: value})
    assert line.startswith(f"{name}: ")
