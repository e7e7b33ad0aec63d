"""`python -m deploy.local run`: everything on this machine, until Ctrl-C."""

import signal
import sys
from types import FrameType

import typer

from deploy.local import demo
from deploy.local.kafka import find_kafka
from deploy.local.postgres import find_postgres
from deploy.local.process import LocalError, say

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def run() -> None:
    """Start everything, link a document, show its event and those that follow."""
    demo.run()


@app.command()
def up() -> None:
    """Start Postgres and Kafka alone and print their addresses as settings."""
    with find_postgres() as postgres, find_kafka() as kafka:
        print(f"export DATABASE_URL={postgres.dsn()}")
        print(f"export KAFKA_BOOTSTRAP_SERVERS={kafka.bootstrap}", flush=True)
        say("Ctrl-C ends both")
        signal.pause()


def main() -> int:
    """Run a command; 1 with one clear message where a part is missing or has died."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=False)
    except KeyboardInterrupt:
        say("\nstopped")
    except typer.Exit as done:
        return done.exit_code
    except LocalError as error:
        say(str(error))
        return 1
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Treat SIGTERM as Ctrl-C, so that it too ends all that was started."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
