"""Settings: both programs give the same result for a variable, in the same words."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

import outbox_worker.environment
import outbox_worker.settings
import service.environment
import service.settings

LEAST = {"DATABASE_URL": "postgresql://db", "KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}
NO_URL = (
    "not a URL like postgresql://user:password@host:5432/database; percent-encode what is special"
)


class Program(NamedTuple):
    """A program's reader of settings, and its variables of each kind."""

    read: Callable[[Mapping[str, str]], Any]
    error: type[Exception]
    urls: list[str]
    port: str
    choice: str
    choices: str
    misspelt: str

    def lines(self, environment: Mapping[str, str]) -> list[str]:
        """Return the lines with which an environment is refused."""
        with pytest.raises(self.error) as refusal:
            self.read(environment)
        return str(refusal.value).splitlines()


SERVICE = Program(
    service.settings.read_settings,
    service.environment.SettingsError,
    ["DATABASE_URL"],
    "LINKS_PORT",
    "LINKS_ENTITY_POLICY",
    "registered, any",
    "LINKS_PROT",
)
WORKER = Program(
    outbox_worker.settings.read,
    outbox_worker.environment.SettingsError,
    ["DATABASE_URL", "OUTBOX_SESSION_DATABASE_URL"],
    "OUTBOX_HTTP_PORT",
    "OUTBOX_DELIVERY",
    "exactly-once, at-least-once",
    "OUTBOX_HTP_PORT",
)
BOTH = pytest.mark.parametrize("program", [SERVICE, WORKER], ids=["service", "worker"])

PORTS = ["http", "-1", "65536", "1.5", "80 80", "0x50"]
ACCEPTED = [
    "postgresql://localhost/links",
    "postgresql:///links?host=/var/run/postgresql",
    "postgres://u:p%2F%23%3F%40@localhost:5432/links?sslmode=require",
    "postgresql://u@one:5432,two,[::1]:5433/links?target_session_attrs=read-write",
    "postgresql://u@%2Fvar%2Frun/links?user=somebody@example.com",
    "postgres://[::1]:5432,host:5433/db",
    "postgresql://u@/db?application_name=a@b",
]
REFUSED = {
    "mysql://u:s3cret@host/db": NO_URL,
    "localhost:5432": NO_URL,
    "localhost/links": NO_URL,
    "postgresql://": NO_URL,
    "postgresql://[": NO_URL,
    "postgresql://u:s3cret@host:abc/db": NO_URL,
    "postgresql://u:s3cret@host:70000/db": NO_URL,
    "postgresql://u:s3cret@host,/db": NO_URL,
    "postgresql://localhost,other:port/links": NO_URL,
    "postgresql://u@host/db?sslmode=s3cret": "sslmode: not one of disable, allow, prefer, require",
    "postgresql://u@host/db?search_path=s3cret": "search_path: not a parameter of libpq",
    "postgresql://u@host/db?sslrootcert=/none": "sslrootcert: /none cannot be read: No such file",
    "postgresql://u@host/db?service=s3cret&servicefile=/none": "service: its file /none cannot be read",
    **{
        f"postgresql://u:{before}{special}hidden@localhost/links": NO_URL
        for before in ("s3cret", "5432", "")
        for special in "/?#@["
    },
}


@BOTH
def test_an_empty_variable_counts_as_absent(program: Program) -> None:
    """An empty variable leaves the default; a required one is missing."""
    assert program.read({**LEAST, program.port: ""}) == program.read(LEAST)
    lines = program.lines({**LEAST, "DATABASE_URL": ""})
    assert lines == ["DATABASE_URL: missing variable"]


@BOTH
@pytest.mark.parametrize("value", PORTS)
def test_a_number_out_of_range_is_refused(program: Program, value: str) -> None:
    """The line has the range, and not the value."""
    lines = program.lines({**LEAST, program.port: value})
    assert lines == [f"{program.port}: not a whole number from 0 to 65535"]


@BOTH
def test_an_unknown_choice_is_refused(program: Program) -> None:
    """The line has the choices, and not the value."""
    lines = program.lines({**LEAST, program.choice: "s3cret"})
    assert lines == [f"{program.choice}: not one of {program.choices}"]


@BOTH
@pytest.mark.parametrize("value", ["", "x"])
def test_an_unknown_variable_with_the_prefix_is_refused(program: Program, value: str) -> None:
    """The line has the nearest setting, even if the variable is empty."""
    lines = program.lines({**LEAST, program.misspelt: value})
    assert lines == [f"{program.misspelt}: unknown variable; did you mean {program.port}?"]


@BOTH
def test_a_misspelt_variable_without_the_prefix_is_named(program: Program) -> None:
    """Such a variable is refused only if the setting that it resembles is absent."""
    misspelt = {"DATABASE_URI": LEAST["DATABASE_URL"]}
    assert program.read(LEAST | misspelt) == program.read(LEAST)
    assert program.lines({**LEAST, **misspelt, "DATABASE_URL": ""}) == [
        "DATABASE_URL: missing variable"
    ]
    lines = program.lines({"KAFKA_BOOTSTRAP_SERVERS": "broker", **misspelt})
    assert lines == [
        "DATABASE_URI: unknown variable; did you mean DATABASE_URL?",
        "DATABASE_URL: missing variable",
    ]


@BOTH
@pytest.mark.parametrize("url", ACCEPTED)
def test_urls_of_postgres_are_taken(program: Program, url: str) -> None:
    """Sockets, several hosts, IPv6 addresses, parameters and encoded passwords are accepted."""
    assert program.read({**LEAST, "DATABASE_URL": url}).database_url == url
    assert program.read(LEAST | dict.fromkeys(program.urls, url))


@BOTH
@pytest.mark.parametrize(("url", "words"), REFUSED.items())
def test_urls_that_cannot_work_are_refused_unseen(program: Program, url: str, words: str) -> None:
    """Each variable with a wrong URL has the same line, without any part of a password."""
    for name in program.urls:
        (line,) = program.lines({**LEAST, name: url})
        assert line.startswith(f"{name}: {words}")
        assert not {"s3cret", "hidden"} & set(re.findall(r"\w+", line))


@BOTH
def test_everything_that_is_wrong_is_said_at_once(program: Program) -> None:
    """Each problem has a line: unknown variables first, then the others in the order of the settings."""
    wrong = {program.port: "x", program.misspelt: "1", program.choice: "x", "DATABASE_URL": ""}
    names = [line.partition(":")[0] for line in program.lines(LEAST | wrong)]
    assert names[:2] == [program.misspelt, "DATABASE_URL"]
    assert sorted(names[2:]) == sorted([program.port, program.choice])
