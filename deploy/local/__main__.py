"""`python -m deploy.local run`: Postgres, Kafka and both programs on this machine, until Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from deploy.local import demo
from deploy.local.interruption import INTERRUPTION
from deploy.local.kafka import find_kafka
from deploy.local.postgres import find_postgres
from deploy.local.process import LocalError, say

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def run() -> None:
    """Start everything, link a document, show its event and those that follow."""
    with _until_interrupted():
        demo.run()


@app.command()
def up() -> None:
    """Start only Postgres and Kafka, and print their addresses as settings."""
    with _until_interrupted(), find_kafka() as kafka, find_postgres() as postgres:
        print(f"export DATABASE_URL={postgres.dsn()}")
        print(f"export KAFKA_BOOTSTRAP_SERVERS={kafka.bootstrap}", flush=True)
        say("Ctrl-C ends both")
        signal.pause()


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Exit with 0 after Ctrl-C, SIGTERM or SIGHUP; with one message and 1 after an error."""
    INTERRUPTION.listen()
    try:
        yield
    except KeyboardInterrupt:
        say("\nstopped")
    except LocalError as error:
        say(str(error))
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="python -m deploy.local")
