"""`make bench`: requests, draining and latency, round after round, as a table and as JSON."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from deploy.local.process import LocalError, say
from tests.benchmarks import drain, latency, links, machine, report
from tests.benchmarks.figures import Figures
from tests.benchmarks.stage import Stage, stage

WARM_UP_SHARE = 10


def bench(
    rounds: Annotated[int, typer.Option(help="How often each measurement is made.")] = 3,
    seconds: Annotated[int, typer.Option(help="How long each timed measurement lasts.")] = 10,
    events: Annotated[int, typer.Option(help="How many events the backlog has.")] = 300_000,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path(".cache/bench.json"),
) -> None:
    """Measure on this machine: needs wrk, and nothing else running."""
    with stage() as here:
        uvloop.run(_bench(here, rounds, seconds, events, output))


async def _bench(here: Stage, rounds: int, seconds: int, events: int, output: Path) -> None:
    about = await machine.describe(here.postgres.dsn())
    database = await here.make_database("bench_links")
    say("warming up …")  # the broker's JVM, above all
    await drain.measure(here, events // WARM_UP_SHARE, report.DELIVERIES[0])
    measured: list[Figures] = []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: links …")
        figures = await links.measure(here, database, seconds)
        for delivery in report.DELIVERIES:
            say(f"round {number + 1} of {rounds}: draining, then steady links, {delivery} …")
            figures |= await drain.measure(here, events, delivery)
            figures |= await latency.measure(here, seconds, delivery)
        measured.append(figures)
    report.show(measured, about)
    report.save(output, measured, about)
    say(f"figures of every round: {output}")


def main() -> int:
    """Run; 1 with one clear message where something is missing or went wrong."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a new topic has no leader at first
    try:
        typer.run(bench)
    except LocalError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
