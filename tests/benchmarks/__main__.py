"""`make bench` and `make bench-peers`: each measurement, round after round, as a table and as JSON."""

import logging
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from deploy.local.process import LocalError, say
from tests.benchmarks import (
    backlog,
    compression,
    drain,
    growth,
    held,
    latency,
    links,
    machine,
    memory,
    report,
)
from tests.benchmarks.figures import Figures
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.stage import Scale, Stage, stage

# Those with Kafka Connect in the background come last.
MEASUREMENTS = {
    "links": Measurement(links.measurement),
    "growth": Measurement(growth.measurement, long=True),
    "memory": Measurement(memory.measurement, long=True, once=True),
    "held": Measurement(held.measurement),
    "backlog": Measurement(backlog.measurement, long=True),
    "compression": Measurement(compression.measurement, long=True),
    "drain": Measurement(drain.measurement),
    "latency": Measurement(latency.measurement),
}


def bench(  # noqa: PLR0913 - a command line
    *,
    peers: Annotated[
        bool, typer.Option(help="Set up and measure peers too, and long measurements.")
    ] = False,
    only: Annotated[
        str, typer.Option(help=f"Some of {', '.join(MEASUREMENTS)}, with commas.")
    ] = "",
    rounds: Annotated[int, typer.Option(help="How often each measurement is made.")] = 3,
    seconds: Annotated[int, typer.Option(help="How long each timed measurement lasts.")] = 8,
    events: Annotated[int, typer.Option(help="How many events there are to drain.")] = 300_000,
    backlog: Annotated[int, typer.Option(help="How many in a great backlog.")] = 3_000_000,
    links: Annotated[int, typer.Option(help="How many links in a great workspace.")] = 5_000_000,
    requests: Annotated[int, typer.Option(help="How many before memory is looked at.")] = 1_000_000,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path(".cache/bench.json"),
) -> None:
    """Measure on this machine: needs wrk, and nothing else running."""
    if unknown := {*filter(None, only.split(","))} - MEASUREMENTS.keys():
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(MEASUREMENTS)}")
    chosen = (
        only.split(",")
        if only
        else [n for n, each in MEASUREMENTS.items() if peers or not each.long]
    )
    scale = Scale(seconds, events, backlog, links, requests, peers)
    with stage(scale) as here:
        uvloop.run(_bench(here, [name for name in MEASUREMENTS if name in chosen], rounds, output))


async def _bench(here: Stage, chosen: list[str], rounds: int, output: Path) -> None:
    about = {**await machine.describe(here.postgres.dsn()), **asdict(here.scale)}
    measured: list[Figures] = [{} for _ in range(rounds)]
    try:
        async with here.running:
            for name in chosen:
                await _measure(here, name, measured)
                report.save(output, measured, about)
    finally:  # what was measured before something went wrong is shown all the same
        report.save(output, measured, about)
        report.show(measured, about)
        say(f"figures of every round: {output}")


async def _measure(here: Stage, name: str, measured: list[Figures]) -> None:
    measurement = MEASUREMENTS[name]
    async with measurement.open(here) as one_round:
        rounds = measured[:1] if measurement.once else measured
        for number, figures in enumerate(rounds, 1):
            say(f"{name}, round {number} of {len(rounds)} …")
            figures.update(await one_round())


def main() -> int:
    """Run; 1 with one clear message where something is missing or went wrong."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a new topic has no leader at first
    try:
        typer.run(bench)
    except LocalError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
