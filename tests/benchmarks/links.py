"""New links a second: the service under wrk, beside pgbench and peers on the same Postgres."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from deploy.local import programs
from deploy.local.process import LocalError
from tests.benchmarks import counted, pgbench
from tests.benchmarks.figures import Figures, family_cpu_s
from tests.benchmarks.measurement import Round
from tests.benchmarks.peers import fastapi, openfga
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.stage import SERVICE, Database, Stage, checkpoint
from tests.benchmarks.wrk import Caller, load

WARM_UP_S = 2
CLIENTS = 32


class Case(NamedTuple):
    """So many worker processes of the service, connections and links a call."""

    workers: int
    connections: int
    links: int = 1

    @property
    def name(self) -> str:
        """What its figures begin with."""
        kind = "links" if self.links == 1 else "batch"
        return f"{kind}.w{self.workers}c{self.connections}"


TWO, ONE, LONE = Case(2, 128), Case(1, 32), Case(1, 1)
BATCH = Case(2, 4, links=500)


@asynccontextmanager
async def measurement(stage: Stage) -> AsyncIterator[Round]:
    """Yield what measures each case once, and beside each what it is compared with."""
    database = await stage.make_database("bench_links")
    seconds = stage.scale.seconds
    peers = [await openfga.make(stage), await fastapi.make(stage)] if stage.scale.peers else []

    async def one_round() -> Figures:
        figures = await _service(stage, database, TWO)
        figures |= await pgbench.measure(database, CLIENTS, seconds)
        figures |= await _service(stage, database, ONE)
        for peer in peers:
            figures |= await _peer(peer, ONE.connections, seconds)
        figures |= await _service(stage, database, LONE)
        for peer in peers[:1]:  # OpenFGA alone has a target here
            figures |= await _peer(peer, LONE.connections, seconds)
        return figures | await _service(stage, database, BATCH)

    yield one_round


async def _service(stage: Stage, database: Database, case: Case) -> Figures:
    await checkpoint(database.dsn)
    call = "link" if case.links == 1 else "batch"
    settings = {**SERVICE, "LINKS_WORKERS": str(case.workers)}
    with programs.service(database.dsn, stage.logs, **settings) as service:
        values = {"OPERATIONS": case.links}
        caller = Caller(service.url, database.key, case.connections, call, values)
        load(caller, WARM_UP_S)
        async with counted.rows(database.dsn) as rows:
            used = family_cpu_s(service.pid)
            done = load(caller, stage.scale.seconds)
            used = family_cpu_s(service.pid) - used
    if done.failed:
        raise LocalError(f"{done.failed} calls failed\n{service.log_tail()}")
    rows.check(done.requests * case.links, case.connections * case.links)
    cpu_us = used / (done.requests * case.links) * 1e6
    return {**done.figures(case.name, case.links), f"{case.name}.cpu_us": cpu_us}


async def _peer(peer: Peer, connections: int, seconds: int) -> Figures:
    """Measure a peer as the service was."""
    await checkpoint(peer.dsn)
    with peer.running() as url:
        caller = Caller(url, peer.key, connections, peer.call, peer.values)
        load(caller, WARM_UP_S)
        async with counted.rows(peer.dsn, peer.counts) as rows:
            done = load(caller, seconds)
    if done.failed:
        raise LocalError(f"{done.failed} calls of {peer.name} failed")
    rows.check(done.requests, connections)
    return done.figures(f"{peer.name}.c{connections}")
