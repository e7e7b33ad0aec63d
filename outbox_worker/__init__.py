"""Relays the outbox table to Kafka, exactly once. Start reading at relay.py."""

import os
import signal
from typing import NoReturn


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


# As the first process of a container it would not end at SIGTERM before the command has set its own
# handler, after half a second of imports: the kernel drops a signal that process 1 does not handle.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)
