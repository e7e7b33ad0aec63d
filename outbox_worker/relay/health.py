"""The worker's state and its pages: /healthz, /readyz and /metrics. A healthy worker makes progress."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Literal

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from outbox_worker.incident import Incident
from outbox_worker.logs import get_logger
from outbox_worker.postgres.pause import Pause
from outbox_worker.release import VERSION

log = get_logger(__name__)

NO_PROGRESS_S = 30
"""The longest time without progress in which the worker still counts as healthy."""
# After a failure with the lock, a standby counts as healthy again only after this time. While Kafka
# is unreachable, the leaders fail in turn, and each looks like a healthy standby between two attempts.
ANOTHER_LEADS_S = 60
# Errors that only mean that another worker took over.
TAKEN_OVER = {"FencedError", "LeadershipLostError"}
State = Literal["starting", "standby", "leading", "stopping"]


class Health:
    """The worker's state, the time of its last progress, and the problem that it has now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.state: State = "starting"
        self.state_since = time.time()
        self.problem: str | None = None
        self.detail = ""
        """The text of the problem's or the obstacle's error."""
        self.problem_since = 0.0
        self.pause: Pause | None = None
        """The pause of the relay, if this process leads."""
        # The error that a standby's check of Kafka has found.
        self.obstacle: str | None = None
        self._clock = clock
        self._progressed_at = clock()
        self._failed_at = clock()
        self._failed_with_lock = False
        self._problems = Incident()
        self._obstacles = Incident()
        self._logged_state: State = "starting"
        self._logged: set[str] = set()
        """What was logged of the attempts to lead since the problem began."""

    def enter(self, state: State) -> None:
        """Change the state and log the change, each state once while a problem lasts."""
        if state != self.state:
            self.state_since = time.time()
            if self.is_news(state):
                self._log_state(state)
        self.state = state
        if state == "leading":
            self._obstacles.succeed()
            self.obstacle = None

    def is_news(self, attempt: str) -> bool:
        """Whether to log a part of an attempt to lead: while a problem lasts, each part is logged once."""
        is_new = self.problem is None or attempt not in self._logged
        self._logged.add(attempt)
        return is_new

    def _log_state(self, state: State) -> None:
        log.info("worker.state", state=state, before=self._logged_state)
        self._logged_state = state

    def progressed(self) -> None:
        """Note progress: a page was published, or there was nothing to publish."""
        self._progressed_at = self._clock()
        if self.problem is not None:
            self._problems.succeed()
            log.info("worker.recovered", problem=self.problem)
            self.problem = None
            if self.state != self._logged_state:
                self._log_state(self.state)

    def enter_standby(self) -> None:
        """Note that another process holds the lock.

        A held lock does not show that its holder makes progress. If this process failed without the
        lock, then Postgres was the reason, and Postgres answers now.
        """
        self.enter("standby")
        could_not_lead = self._failed_with_lock and self.problem not in TAKEN_OVER
        waited_s = self._clock() - self._failed_at
        if self.problem is None or not could_not_lead or waited_s > ANOTHER_LEADS_S:
            self.progressed()

    def set_obstacle(self, problem: str, detail: str = "") -> None:
        """Note why a standby could not lead: it is not ready, but healthy, because it polls the lock."""
        if self.obstacle is None:
            self.problem_since = time.time()
        if self._obstacles.fail(problem):
            log.error("worker.standby_cannot_lead", problem=problem, detail=detail)
        self.obstacle, self.detail = problem, detail

    def clear_obstacle(self) -> None:
        """Note that a standby could lead: its check of Kafka has succeeded."""
        if self.obstacle is not None:
            self._obstacles.succeed()
            log.info("worker.standby_can_lead", problem=self.obstacle)
            self.obstacle = None

    def progressed_since(self, time_s: float) -> bool:
        """Whether there was progress after a time of the monotonic clock."""
        return self._progressed_at > time_s

    def set_problem(
        self, problem: str, detail: str = "", during: str = "", *, with_lock: bool = True
    ) -> None:
        """Note a problem, and log each kind once until the worker makes progress."""
        if self.problem is None:
            self.problem_since = time.time()
            self._logged.clear()
        if self._problems.fail(problem):
            log.error("worker.failing", problem=problem, detail=detail, during=during)
        self.problem, self.detail = problem, detail
        self._failed_at = self._clock()
        self._failed_with_lock = with_lock

    @property
    def healthy(self) -> bool:
        """Whether the last progress is recent."""
        return self._clock() - self._progressed_at <= NO_PROGRESS_S

    @property
    def ready(self) -> bool:
        """Whether the worker leads, or could lead."""
        no_problem = self.problem is None and self.obstacle is None
        return self.healthy and no_problem and self.state in {"leading", "standby"}

    def report(self) -> dict[str, object]:
        """Return the content of /healthz and /readyz."""
        idle_s = round(self._clock() - self._progressed_at, 1)
        problem = self.problem or self.obstacle
        return {
            "status": self.state,
            "problem": problem,
            "seconds_since_progress": idle_s,
            "paused": self.pause and self.pause._asdict(),
            "version": VERSION,
        }


def pages(health: Health, registry: CollectorRegistry, more: Sequence[Route] = ()) -> Starlette:
    """Return the three pages, and more."""

    async def healthz(_: Request) -> Response:
        return JSONResponse(health.report(), 200 if health.healthy else 503)

    async def readyz(_: Request) -> Response:
        return JSONResponse(health.report(), 200 if health.ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            *more,
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the worker has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve(app: Starlette, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the pages on a listening socket for as long as the context lasts."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
