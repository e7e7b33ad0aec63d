"""The command `doctor`: runs the checks, and prints their report as text or JSON."""

import asyncio
import os
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from service import command_line, logs
from service.doctor.checks import Check, Report
from service.doctor.database import check_database
from service.edge.gate.rates import SharedLimiter
from service.environment import SettingsError
from service.server.serving import connections_allowed
from service.settings import Settings, read_settings
from service.terminal import fail


def doctor(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Check settings, the database and its role, the pooler, the clocks, Redis and open files.

    A connection over a network without TLS is a warning, because the network may be private.
    """
    logs.set_up("error")
    try:
        report = asyncio.run(examine(read_settings(os.environ)))
        code = 0 if report.passed else command_line.FAILED
    except SettingsError as error:
        mend = "set the variables as the README's table has them"
        report = Report(
            [Check("settings", passed=False, found="; ".join(str(error).splitlines()), mend=mend)]
        )
        code = command_line.USAGE
    except KeyboardInterrupt:
        fail("interrupted")
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _print(report)
    raise typer.Exit(code)


async def examine(settings: Settings) -> Report:
    """Run all checks that are possible."""
    checks = [Check("settings", passed=True, found=f"LINKS_WORKERS={settings.links_workers}")]
    checks += await check_database(settings)
    return Report([*checks, await _rate_limits(settings), _open_files(settings)])


async def _rate_limits(settings: Settings) -> Check:
    if settings.links_rate_limit_storage == "memory":
        return Check("rate limits", passed=True, found="each process counts on its own")
    limiter = SharedLimiter(settings.links_rate_limit_storage)
    try:
        problem = await limiter.problem()
    finally:
        await limiter.aclose()
    mend = "check LINKS_RATE_LIMIT_STORAGE and that Redis listens; until then each process counts on its own"
    return Check("rate limits", passed=problem is None, found=problem or "Redis answers", mend=mend)


def _open_files(settings: Settings) -> Check:
    allowed, files = connections_allowed(settings)
    wanted = settings.links_max_connections
    found = f"{allowed} of {wanted} connections are possible"
    mend = f"raise `ulimit -Hn` to {files}, or lower LINKS_MAX_CONNECTIONS"
    return Check("open files", passed=allowed >= wanted, found=found, mend=mend)


def _print(report: Report) -> None:
    console = Console(highlight=False, emoji=False)
    for check in report.checks:
        mark = "[green]pass[/]" if check.passed else "[red]fail[/]"
        console.print("[yellow]warn[/]" if check.warning else mark, end=" ")
        console.print(f"{check.name}: {check.found}", markup=False, soft_wrap=True)
        if check.warning or not check.passed:
            console.print(f"     mend: {check.mend}", markup=False, soft_wrap=True)
