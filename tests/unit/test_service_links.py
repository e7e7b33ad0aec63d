"""Variables that Kubernetes and Docker set for other services do not stop the programs."""

from collections.abc import Callable, Mapping

import pytest

import outbox_worker.environment
import outbox_worker.settings
import service.environment
import service.settings

LEAST = {"DATABASE_URL": "postgresql://db/links", "KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}
SERVICES = (
    "LINKS",
    "LINKS_API",
    "LINKS_POOL",
    "LINKS_1",
    "OUTBOX",
    "OUTBOX_WORKER",
    "OUTBOX_HTTP",
    "OUTBOX_SESSION_DATABASE",
    "KAFKA",
    "KAFKA_BOOTSTRAP",
    "KAFKA_SSL",
)
Read = Callable[[Mapping[str, str]], object]
PROGRAMS = pytest.mark.parametrize(
    "read", [service.settings.read_settings, outbox_worker.settings.read], ids=["service", "worker"]
)


def links_of(name: str) -> dict[str, str]:
    """Return the variables that Kubernetes (the first seven) and Docker's links set for such a service."""
    return {
        f"{name}_SERVICE_HOST": "10.0.0.1",
        f"{name}_SERVICE_PORT": "8080",
        f"{name}_SERVICE_PORT_HTTP": "8080",
        f"{name}_PORT": "tcp://10.0.0.1:8080",
        f"{name}_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        f"{name}_PORT_8080_TCP_PROTO": "tcp",
        f"{name}_PORT_8080_TCP_PORT": "8080",
        f"{name}_PORT_8080_TCP_ADDR": "10.0.0.1",
        f"{name}_SERVICE_PORT_DNS_UDP": "53",
        f"{name}_PORT_53_UDP": "udp://[fd00::1]:53",
        f"{name}_PORT_53_UDP_ADDR": "fd00::1",
        f"{name}_PORT_9_SCTP": "sctp://10.0.0.1:9",
        f"{name}_NAME": "/web/links",
        f"{name}_ENV_PGDATA": "/var/lib/postgresql/data",
    }


@PROGRAMS
@pytest.mark.parametrize("name", SERVICES)
def test_variables_of_a_service_change_nothing(read: Read, name: str) -> None:
    """The settings are the same with and without these variables, LINKS_PORT=tcp://… included."""
    assert read(LEAST | links_of(name)) == read(LEAST)


@PROGRAMS
@pytest.mark.parametrize("name", ["LINKS_PORT", "OUTBOX_HTTP_PORT"])
def test_an_address_in_a_variable_of_ours_is_not_taken(read: Read, name: str) -> None:
    """A port's variable that has the address of another service counts as absent."""
    assert read({**LEAST, name: "udp://10.0.0.1:53"}) == read(LEAST)


@pytest.mark.parametrize(
    ("read", "name", "value", "nearest"),
    [
        (service.settings.read_settings, "LINKS_PROT", "8080", "LINKS_PORT"),
        (service.settings.read_settings, "LINKS_PORTS", "tcp://10.0.0.1:8080", "LINKS_PORT"),
        (service.settings.read_settings, "LINKS_POOL_PORT", "8080", "LINKS_PORT"),
        (service.settings.read_settings, "LINKS_HOST_NAME", "api", "LINKS_HOST"),
        (service.settings.read_settings, "LINKS_SERVICE_HOSTS", "10.0.0.1", "LINKS_HOST"),
        (service.settings.read_settings, "LINKS_ENV", "production", "LINKS_"),
        (outbox_worker.settings.read, "OUTBOX_PORT", "9090", "OUTBOX_HTTP_PORT"),
        (outbox_worker.settings.read, "OUTBOX_TOPIC_NAME", "links", "OUTBOX_TOPIC"),
        (outbox_worker.settings.read, "OUTBOX_HTTP_PORT_8080", "1", "OUTBOX_HTTP_PORT"),
    ],
)
def test_a_misspelt_variable_is_still_an_error(
    read: Read, name: str, value: str, nearest: str
) -> None:
    """A variable that is no service link is refused, with the nearest name."""
    with pytest.raises(
        (service.environment.SettingsError, outbox_worker.environment.SettingsError),
        match=f"{name}.*did you mean {nearest}",
    ):
        read({**LEAST, name: value})
