"""The command line: `python -m outbox_worker` and a command."""

import asyncio
import ctypes
import gc
import os
import signal
import socket
from contextlib import aclosing, nullcontext
from functools import partial
from typing import Annotated

import typer
import uvloop

from outbox_worker import command_line, logs, tracing
from outbox_worker.operator import (
    doctor,
    pausing,
    rebase,
    replay,
    snapshot,
    status,
    terminal,
    verify,
)
from outbox_worker.operator.terminal import report
from outbox_worker.page.observer import Observer
from outbox_worker.page.routes import routes
from outbox_worker.postgres.registration import RefusedError
from outbox_worker.postgres.sessions import UnusableUrlError
from outbox_worker.relay.health import Health, pages, serve
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.process import Relay
from outbox_worker.relay.term import Term
from outbox_worker.relay.traced import TracedTerm
from outbox_worker.release import VERSION
from outbox_worker.settings import Settings

log = logs.get_logger("outbox_worker")

TRACED_AS = "document-links-outbox-worker"
"""The default of OTEL_SERVICE_NAME."""

# The time limits after a stop signal: for the transaction in flight, and then for the clean-up after its
# cancellation. With one second for the HTTP pages and tracing.FLUSH_S for the last spans, they are less
# than the 10 s after which Docker kills.
FINISH_S = 4
CLEAN_UP_S = 4
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main(*, version: Annotated[bool, command_line.version_option(VERSION)] = False) -> None:
    """Relay the outbox to Kafka; inspect and repair what was relayed."""


@app.command()
def run(
    *,
    accept_topic: Annotated[
        bool, typer.Option(help="Publish to an event topic that was made again since the last run.")
    ] = False,
) -> None:
    """Relay until SIGTERM or Ctrl-C."""
    settings = terminal.settings()
    logs.set_up("warning", **terminal.LOG_LEVELS)
    _keep_big_buffers()
    _collect_rarely()
    listener = _listen(settings.http_host, settings.http_port)
    try:
        uvloop.run(_work(settings, listener, accept_topic=accept_topic))
    except (RefusedError, UnusableUrlError) as refusal:
        terminal.fail(str(refusal))
    except Exception as error:
        log.exception("worker.crashed")
        raise typer.Exit(terminal.FAILED) from error


def _listen(host: str, port: int) -> socket.socket:
    """Listen on an address; `::` means every address of IPv6 and IPv4, or of IPv4 alone without IPv6."""
    both = socket.has_dualstack_ipv6()
    try:
        if host == "::" and not both:
            return socket.create_server(("0.0.0.0", port))  # noqa: S104 - the setting says so
        if ":" in host:
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=both)
        return socket.create_server((host, port))
    except OSError as error:
        terminal.fail(f"cannot listen on {_shown(host)}:{port}: {error.strerror}")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _work(settings: Settings, listener: socket.socket, *, accept_topic: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup` lets a program ignore SIGHUP
        signals.append(signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    health, metrics = Health(), Metrics()
    traces = tracing.start(os.environ, TRACED_AS)
    make_term = Term if traces is None else partial(TracedTerm, traces=traces, topic=settings.topic)
    relay = Relay(settings, stop, health, metrics, accept_topic=accept_topic, make_term=make_term)
    observer = Observer(settings, relay, health, metrics)
    app = pages(health, metrics.registry, routes(observer))
    async with (
        nullcontext() if traces is None else aclosing(traces),
        observer.observing(),
        serve(app, listener),
    ):
        host, port, *_ = listener.getsockname()
        log.info("worker.started", version=VERSION, topic=settings.topic, delivery=settings.delivery,
                 url=f"http://{_shown(host)}:{port}")  # fmt: skip
        await _until_stopped(relay, stop, health)
    log.info("worker.stopped")


async def _until_stopped(relay: Relay, stop: asyncio.Event, health: Health) -> None:
    """Run the relay; after a stop signal, wait FINISH_S for the transaction in flight, then cancel."""
    running = asyncio.create_task(relay.run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not running.done():
        health.enter("stopping")
        await asyncio.wait([running], timeout=FINISH_S)
    if not running.done():
        log.warning("worker.stop_forced")
        running.cancel()
        await asyncio.wait([running], timeout=CLEAN_UP_S)
    if running.done() and not running.cancelled():
        running.result()


def _collect_rarely() -> None:
    """Run the cyclic garbage collector rarely: a page has thousands of objects, and none is in a cycle."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def _keep_big_buffers() -> None:
    """Let glibc keep freed buffers: a buffer from the kernel costs page faults (man mallopt)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 64 << 20)


app.command("status")(status.command)
app.command("verify")(verify.command)
app.command("replay")(replay.command)
app.command("snapshot")(snapshot.command)
app.command("rebase")(rebase.command)
app.command("pause")(pausing.pause)
app.command("resume")(pausing.resume)
app.command("doctor")(doctor.command)

if __name__ == "__main__":
    command_line.main(app, "python -m outbox_worker", report)
