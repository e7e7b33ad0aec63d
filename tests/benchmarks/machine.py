"""The machine and the versions that figures belong to."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import asyncpg

SETTINGS = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "wal_level")
LIBRARIES = ("aiokafka", "asyncpg", "msgspec", "starlette", "uvicorn", "uvloop")


async def describe(dsn: str) -> dict[str, str | float]:
    """Return what a reader of the figures must know."""
    connection = await asyncpg.connect(dsn)
    try:
        settings = {
            name: str(await connection.fetchval("SELECT current_setting($1)", name))
            for name in SETTINGS
        }
    finally:
        await connection.close()
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "load_average_before": round(os.getloadavg()[0], 2),
        "measured_at": datetime.now(UTC).isoformat(timespec="minutes"),
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{f"postgres_{name}": value for name, value in settings.items()},
        **{library: metadata.version(library) for library in LIBRARIES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
