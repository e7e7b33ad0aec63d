"""`make soak`: both programs on real Postgres and Kafka under a mix of all calls, a table row a minute.

Exit code 1: a call had an answer that it must not have, a program logged an error, `verify` found a
fault, or memory, descriptors or dead tuples keep rising.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import uvloop

from deploy.local import programs
from deploy.local.kafka import find_kafka
from deploy.local.postgres import find_postgres
from deploy.local.process import LocalError, say
from tests.benchmarks import machine
from tests.benchmarks.stage import SERVICE
from tests.soak import report
from tests.soak.callers import Callers
from tests.soak.mix import World
from tests.soak.samples import Interval, Reader
from tests.soak.stage import Stage, errors_logged, make_stage, make_world, verify
from tests.support.waiting import until

INTERVAL_S = 60.0
LEAST_INTERVALS = 8
"""Of a short run: two for each quarter."""
LAG_EVERY_S = 5.0
CAUGHT_UP_S = 120.0


def soak(
    *,
    rate: Annotated[float, typer.Option(min=1, help="Calls a second.")] = 200,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long the calls last.")] = 60,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path(".cache/soak.json"),
) -> None:
    """Run the mix; the exit code says whether something went wrong."""
    with (
        TemporaryDirectory(prefix="document-links-soak-") as logs,
        find_postgres() as postgres,
        find_kafka() as kafka,
    ):
        stage = asyncio.run(make_stage(postgres, kafka.bootstrap, Path(logs)))
        result = uvloop.run(_soak(stage, rate, minutes))
        result.errors_logged = errors_logged(stage)
        result.verify = verify(stage)
    report.save(output, result)
    print("\n".join(report.conclusion(result)))
    say(f"figures of every interval: {output}")
    if result.problems():
        raise typer.Exit(1)


async def _soak(stage: Stage, rate: float, minutes: float) -> report.Result:
    with (
        programs.service(stage.dsn, stage.logs, LINKS_WORKERS="2", **SERVICE) as service,
        programs.worker(stage.dsn, stage.bootstrap, stage.logs, **stage.worker) as worker,
    ):
        world = World()
        await make_world(service.url, stage.key, world)
        callers = Callers(service.url, stage.key, world, rate)
        about = {"rate": rate, "minutes": minutes, **await machine.describe(stage.dsn)}
        result = report.Result(about)
        async with Reader(stage.dsn, service.pid, worker.pid, worker.url) as reader:
            await until(reader.caught_up, CAUGHT_UP_S)
            calling = asyncio.create_task(callers.run())
            try:
                await _follow(callers, reader, minutes, result)
            finally:
                callers.stop()
                await calling
            await until(reader.caught_up, CAUGHT_UP_S)
        result.answers, result.examples = callers.answers, callers.examples
        result.errors = callers.errors
    return result


async def _follow(callers: Callers, reader: Reader, minutes: float, result: report.Result) -> None:
    """Add a sample to the result, and a row to the table, for each interval of the run."""
    interval_s = min(INTERVAL_S, minutes * 60 / LEAST_INTERVALS)
    began = ended = time.monotonic()
    print(report.head(), flush=True)
    for number in range(1, round(minutes * 60 / interval_s) + 1):
        lags, errors, started = [], callers.errors, ended
        while (left := began + number * interval_s - time.monotonic()) > 0:
            await asyncio.sleep(min(left, LAG_EVERY_S))
            lags.append(await reader.lag())
        ended = time.monotonic()
        interval = Interval(
            (ended - began) / 60,
            ended - started,
            callers.take_waits(),
            callers.errors - errors,
            lags,
        )
        result.samples.append(await reader.sample(interval))
        print(report.row(result.samples[-1]), flush=True)


def main() -> int:
    """Run; 1 with one message if something is missing or was interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    try:
        typer.run(soak)
    except LocalError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
